"""Rows -> train, validation and test.

splits.py        the data section of a run -> its three splits
assignment.py    which row goes where, by hashes, strata and groups
leakage.py       the same file, group or row in two splits
seen_rows.py     rows that a run has trained, by the prints that it keeps
rejected_lines.py  the lines that a run has left out, in its folder
one_split.py     files whose rows are all scored
overlap.py       evaluation rows that repeat a training row, or 13 words of one
train_prints.py  that, and the prints of training rows, found in one pass and kept in the cache
batches.py       tables that are larger than the memory, walked in order
"""
