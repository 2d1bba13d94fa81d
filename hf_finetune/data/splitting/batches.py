"""Rows of a table, some at a time: how everything that looks at whole rows walks a table that may not fit into memory.

Never `take` of a chunked table: pyarrow 26 concatenates each column for it, all rows for any few, and fails above 2 GiB
of text (https://github.com/apache/arrow/issues/25822).
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from datasets import Dataset
from datasets.table import MemoryMappedTable

from hf_finetune.data.splitting.assignment import Rows

ROWS_AT_ONCE = 4_000
BYTES_AT_ONCE = 2**24
# What `datasets` has done to a table since it was mapped, and left its rows as they are in the file.
_KEEP_ROWS = {"select", "replace_schema_metadata"}


def iterate_batches(table: Dataset, numbers: Rows) -> Iterator[tuple[int, pa.RecordBatch]]:
    """Yield the rows `numbers` of a table, (rows,), ascending and distinct, with the place in `numbers` of the first.

    Memory is that of one record batch, as the cache has them of some megabytes, or of one row.
    """
    for start, batch in _select(_iterate_stored(table), numbers):
        # About so many bytes: of a batch of some megabytes any part will do.
        step = max(1, min(ROWS_AT_ONCE, len(batch) * BYTES_AT_ONCE // max(1, batch.nbytes)))
        for offset in range(0, len(batch), step):
            yield start + offset, batch.slice(offset, step)


def _select(pieces: Iterable[Any], numbers: Rows) -> Iterator[tuple[int, Any]]:
    """Yield what `numbers` name of each of consecutive record batches or arrays, with the place of its first."""
    first = start = 0
    for whole in pieces:
        stop = start + int(np.searchsorted(numbers[start:], first + len(whole)))
        if start < stop:
            wanted = numbers[start:stop] - first
            yield start, whole if len(wanted) == len(whole) else whole.take(pa.array(wanted))
        start, first = stop, first + len(whole)
        if start == len(numbers):
            return


def _iterate_stored(table: Dataset) -> Iterator[pa.RecordBatch]:
    """Yield the record batches of a table; those of a whole file are read from it, and not mapped.

    Pages of a mapped file stay with the process for as long as the system has room: it would look as large as the file.
    """
    own = table.data
    if isinstance(own, MemoryMappedTable) and {name for name, _, _ in own.replays} <= _KEEP_ROWS:
        with pa.OSFile(own.path) as file, pa.ipc.open_stream(file) as stored:
            for batch in stored:
                yield batch.select(table.column_names)
    else:
        yield from own.table.to_batches()


def read_values(table: Dataset, column: str, numbers: Rows) -> list[Any]:
    """Read one column of the rows `numbers`, (rows,), ascending and distinct: a Python value for each."""
    return [value for _, some in _select(table.data.column(column).chunks, numbers) for value in some.to_pylist()]


def encode_values(table: Dataset, column: str) -> tuple[Rows, list[Any]]:
    """Encode a column by its values in the order of their first rows: codes (rows,), and the values."""
    codes = np.empty(len(table), dtype=np.int64)
    known: dict[Any, int] = {}
    first = 0
    for chunk in table.data.column(column).chunks:
        encoded = pc.dictionary_encode(chunk)
        here = [known.setdefault(value, len(known)) for value in encoded.dictionary.to_pylist()]
        codes[first : first + len(chunk)] = np.array(here, dtype=np.int64)[encoded.indices.to_numpy()]
        first += len(chunk)
    return codes, list(known)
