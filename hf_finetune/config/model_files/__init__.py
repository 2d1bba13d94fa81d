"""A model's folder, read and checked as a whole before anything is built of it: torch is never imported.

description.py  the folder's JSON files and the shapes of its weights, and all that is wrong with them
regular.py      only regular files of a possible size are opened
values.py       the type and the bounds of each value that is read
ranges.py       the range of each number that is no size
amounts.py      more keys and values than any model's files have
sizes.py        the sizes that a configuration asks for, against the weights that are there
patterns.py     names and patterns of an adapter's settings
linear.py       regular expressions of others, matched in linear time
tokenizer.py    what of a tokenizer's files takes minutes or all memory to build
growth.py       texts that a tokenizer makes longer, and words that it tries whole
tried/          regular expressions of a tokenizer, tried before they are matched
kinds.py        what kind of model it is
"""
