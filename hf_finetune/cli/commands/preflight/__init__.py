"""Commands about rows, before a run.

corpus.py   rows to begin with
rows.py     a table as JSONL
new.py      a run file for files of rows
explain.py  what a code in a message stands for
check.py    what the rows of a run are, and what is wrong with them
tokens.py   a text or a row, token by token
"""
