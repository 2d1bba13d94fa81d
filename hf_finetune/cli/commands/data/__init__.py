"""Commands about rows, before a run.

corpus.py   rows to begin with
rows.py     a table as JSONL
tokens.py   a text or a row, token by token
"""
