"""Rows in batches of so many bytes."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.compute as pc
from datasets import Dataset

from hf_finetune.data.splitting.batches import iterate_batches as select_batches
from hf_finetune.data.splitting.batches import iterate_stored, number_rows

BATCH_BYTES = 2**20
"""Of text that a tokenizer is given at once, or one row: it takes up to a hundred bytes of memory for each of them."""
ROWS_PER_BATCH = 1_000
ROWS_GATHERED = 32
"""Rows that are copied at once out of a selection of rows, before their size is known: up to 16 MiB each."""


def iterate_batches(rows: Dataset, columns: list[str]) -> Iterator[tuple[int, pa.Table]]:
    """Yield tables of at most `ROWS_PER_BATCH` and about `BATCH_BYTES`, each with the number of its first row.

    Rows that stand in the file as they are here are not copied.
    """
    first, waiting, size = 0, list[pa.Table](), 0
    for table in _iterate_tables(rows.select_columns(columns)):
        sizes = np.sum([_count_bytes(table.column(name)) for name in columns], axis=0)
        for start, stop in _cut(sizes):
            some, more = table.slice(start, stop - start), int(sizes[start:stop].sum())
            held = sum(map(len, waiting))
            if waiting and (size + more > BATCH_BYTES or held + len(some) > ROWS_PER_BATCH):
                yield first, pa.concat_tables(waiting)
                first, waiting, size = first + held, [], 0
            waiting.append(some)
            size += more
    if waiting:
        yield first, pa.concat_tables(waiting)


def _iterate_tables(rows: Dataset) -> Iterator[pa.Table]:
    """Yield the rows in tables of at most `ROWS_PER_BATCH`."""
    numbers = None if rows._indices is None else number_rows(rows)
    if numbers is None or bool((numbers[1:] > numbers[:-1]).all()):
        # Not through `datasets`: of the file that it maps, all that was read would stay with the process.
        stored = iterate_stored(rows) if numbers is None else (batch for _, batch in select_batches(rows, numbers))
        for batch in stored:
            for start in range(0, len(batch), ROWS_PER_BATCH):
                yield pa.Table.from_batches([batch.slice(start, ROWS_PER_BATCH)])
        return
    # Rows that come several times, or in another order: 1,000 copies would be 1 GB where each has 1 MB.
    yield from rows.with_format("arrow").iter(min(ROWS_GATHERED, ROWS_PER_BATCH))


def _cut(sizes: npt.NDArray[np.int64]) -> Iterator[tuple[int, int]]:
    """Cut rows of these `sizes` (rows,) into pieces, (start, stop), of at most `BATCH_BYTES` or one row."""
    ends, start = np.cumsum(sizes), 0
    while start < len(sizes):
        before = int(ends[start - 1]) if start else 0
        stop = max(start + 1, int(np.searchsorted(ends, before + BATCH_BYTES, side="right")))
        yield start, stop
        start = stop


def count_row_bytes(rows: pa.RecordBatch) -> npt.NDArray[np.int64]:
    """Count the bytes of text of each row: (rows,)."""
    return np.asarray(np.sum([_count_bytes(column) for column in rows.columns], axis=0), np.int64)


def _count_bytes(column: pa.ChunkedArray | pa.Array) -> npt.NDArray[np.int64]:
    """Count the bytes of text inside each value of a column: (rows,)."""
    if isinstance(column, pa.ChunkedArray):
        counts = [_count_bytes(chunk) for chunk in column.chunks]
        return np.concatenate(counts) if counts else np.zeros(0, np.int64)
    if pa.types.is_string(column.type):
        return np.asarray(pc.binary_length(column).fill_null(0), np.int64)
    if pa.types.is_struct(column.type):
        return np.asarray(np.sum([_count_bytes(each) for each in column.flatten()], axis=0), np.int64)
    if pa.types.is_list(column.type):
        # Lists of 2 and 1 values of 5, 1 and 7 bytes: until the ends [0, 2, 3] there are [0, 6, 13], of lists [6, 7].
        ends = np.cumsum(np.asarray(pc.list_value_length(column).fill_null(0), np.int64))
        until = np.append(0, np.cumsum(_count_bytes(column.flatten())))[np.append(0, ends)]
        return np.asarray(np.diff(until), np.int64)
    return np.zeros(len(column), np.int64)
