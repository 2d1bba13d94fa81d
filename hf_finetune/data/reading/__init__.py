"""Files -> checked rows; every problem by file and line.

sources.py              the sources that a run file names -> files
file_kinds.py           what a file is, by its first bytes
lines.py                a text file -> blocks of lines, in constant memory
tables/                 CSV, Parquet, Arrow and JSON arrays -> the same lines
row_lines.py            the one way to the lines of any file
columns.py              `data.columns`: our fields from the user's columns
format_detection.py     the first row -> the decoder of all
formats.py              the row formats, and what each becomes
row_types.py            the same as msgspec types
row_decoder.py          one line -> one checked row
json_line.py            one line of JSON, strictly, with the reason where it is rejected
row_checks/             what a row is held against: its messages, its label
reader.py               files -> rows: accepted, rejected with the reason, or blank
block_batches.py        blocks of lines -> record batches, by several processes
arrow.py                the rows of a role as one memory-mapped data set
"""
