"""The largest number that a setting of a run file may be, by what it counts: above, nothing of it could be trained.

What is allocated by a setting before anything else bounds it is kept far below the memory of a machine; what is only
compared with may be as large as the stack's own arithmetic takes.
"""

from __future__ import annotations

LARGEST_COUNT = 2**31 - 1
"""Steps, rows, seconds, files: only compared with, so that "never" may be written as a large number."""
LONGEST = 2**24
"""Tokens of a text: the longest context of a published model is of ten million."""
LARGEST_VOCABULARY = 2**21
"""The trainers of `tokenizers` (0.23) reserve room for all of it, and abort the process where there is none."""
WIDEST = 2**18
DEEPEST = 2**11
MOST_AT_ONCE = 2**20
"""Rows of a batch, batches of a step."""
MOST_WORKERS = 2**9
LARGEST_RANK = 2**14
LARGEST_FACTOR = 1e6
"""Of a loss, a gradient, a learning rate: what is multiplied by more is beyond the numbers of the weights."""
LONGEST_NGRAM = 16
LARGEST_THETA = 1e12
MOST_COPIES = 1_000.0
"""Copies of each row in one epoch, whose numbers are held in memory."""
LONGEST_LINE = 2**30
"""Bytes, all in memory at once."""
LARGEST_NORM = 1e15
"""Of gradients: "never clip" is written as a large number."""
MOST_PREFETCHED = 2**10
"""Batches of each worker, held in memory."""
