"""Rows -> train, validation and test.

splits.py        the data section of a run -> its three splits
division.py      the settings that divide rows -> which rows each split has
assignment.py    which row goes where, by hashes, strata and groups
weights.py       training rows that are repeated or left out by the weight of their source
chosen_rows.py   the rows of each split, their hashes and places, mapped from the cache
leakage.py       the same file, group or row in two splits
seen_rows.py     rows that a run has trained, by the prints that it keeps
rejected_lines.py  the lines that a run has left out, in its folder
one_split.py     files whose rows are all scored
overlap.py       evaluation rows that repeat a training row, or 13 words of one
train_prints.py  that, and the prints of training rows, found in one pass and kept in the cache
signs.py         scripts without blanks between words
spill.py         hashes of more rows than memory may hold, sorted and joined on disk
batches.py       tables that are larger than the memory, walked in order
"""
