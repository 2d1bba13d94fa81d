"""Tables -> rows, one at a time: CSV and its kin, Parquet and Arrow, one JSON array.

rows.py        any table -> rows, each with its number
csv_rows.py    CSV and TSV, whose delimiter is found
encodings.py   bytes -> text, whose encoding is found
arrow_rows.py  Parquet, Arrow, and data sets of the Hub
json_array.py  one JSON array, row by row
convert.py     `hf-finetune rows`: all of it as JSONL
"""
