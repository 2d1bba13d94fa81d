"""Rows to begin with.

standard_library.py  corpora from this Python's standard library
library_tasks.py     two tasks on which a tuned model is plainly better
library_files.py     the library's files in a fixed order, never imported
python_source.py     the definitions of a Python file
canaries.py          secrets to plant, which measure memorization
files.py             a corpus written whole or not at all
"""
