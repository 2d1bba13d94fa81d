"""Rows of a table, some at a time: how everything that looks at whole rows walks a table that may not fit into memory.

Never `take` of a chunked table: pyarrow 26 concatenates each column for it, all rows for any few, and fails above 2 GiB
of text (https://github.com/apache/arrow/issues/25822).
"""

from __future__ import annotations

import mmap
import os
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from functools import partial
from typing import Any

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.compute as pc
from datasets import Dataset
from datasets.table import MemoryMappedTable

from hf_finetune.cache.arrays import give_back, give_back_pages, iterate_pieces, map_numbers
from hf_finetune.data.splitting.assignment import Rows
from hf_finetune.errors import MachineError, Problem

Columns = dict[str, npt.NDArray[Any]]
Codes = npt.NDArray[np.int32]

ROWS_AT_ONCE = 4_000
BYTES_AT_ONCE = 2**24
# What `datasets` has done to a table since it was mapped, and left its rows as they are in the file.
_KEEP_ROWS = {"select", "replace_schema_metadata"}


def iterate_batches(table: Dataset, numbers: Rows) -> Iterator[tuple[int, pa.RecordBatch]]:
    """Yield the rows `numbers` of a table, (rows,), ascending and distinct, with the place in `numbers` of the first.

    Memory is that of one record batch, as the cache has them of some megabytes, or of one row.
    """
    for start, batch in _select(iterate_stored(table), numbers):
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
            wanted = np.array(numbers[start:stop]) - first
            yield start, whole if len(wanted) == len(whole) else whole.take(pa.array(wanted))
            give_back_pages(numbers)
        start, first = stop, first + len(whole)
        if start == len(numbers):
            return


def iterate_stored(table: Dataset) -> Iterator[pa.RecordBatch]:
    """Yield the record batches of a table; those of a whole file are read from it, and not mapped.

    Pages of a mapped file stay with the process for as long as the system has room: it would look as large as the file.
    Raises MachineError where the file was cut since it was mapped.
    """
    path = _find_file(table)
    if path is None:
        yield from table.data.table.to_batches()
        return
    with _check_read(path), pa.OSFile(path) as file:
        count = 0
        for batch in pa.ipc.open_stream(file):
            count += len(batch)
            yield batch.select(table.column_names)
        _check_count(path, count, len(table.data))


@contextmanager
def _check_read(path: str) -> Iterator[None]:
    try:
        yield
    except (pa.ArrowInvalid, OSError) as problem:
        raise _explain_cut(path) from problem


def _check_count(path: str, found: int, expected: int) -> None:
    # A stream of Arrow that ends behind any of its batches is a whole one.
    if found != expected:
        raise _explain_cut(path)


def _explain_cut(path: str) -> MachineError:
    what = "a file of the cache was cut or changed while the run read it"
    return MachineError(Problem(what, "start the run again: it is made again then", path, code="HF090"))


def _find_file(table: Dataset) -> str | None:
    """The file whose rows are those of a table, all of them; None where it was removed, and is mapped alone."""
    own = table.data
    whole = isinstance(own, MemoryMappedTable) and {name for name, _, _ in own.replays} <= _KEEP_ROWS
    return str(own.path) if whole and os.path.exists(own.path) else None


def iterate_columns(table: Dataset, names: Sequence[str]) -> Iterator[tuple[int, Columns]]:
    """Yield some columns of numbers, (rows,), a record batch at a time, with the row of the first."""
    stored, give_back_table = map_table(table)
    first = 0
    for batch in stored:
        yield first, {name: batch.column(name).to_numpy() for name in names}
        first += len(batch)
        give_back_table()


def map_table(table: Dataset) -> tuple[Iterator[pa.RecordBatch], Callable[[], None]]:
    """The record batches of a table, and what takes those pages out of memory which were read of them.

    They are of a map of our own: the pages of the one that `datasets` has cannot be given back.
    """
    if (path := _find_file(table)) is None:
        return iter(table.data.table.to_batches()), lambda: None
    with open(path, "rb") as file:
        mapped = mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ)

    def iterate() -> Iterator[pa.RecordBatch]:
        with _check_read(path):
            count = 0
            for batch in pa.ipc.open_stream(pa.py_buffer(mapped)):
                count += len(batch)
                yield batch
            _check_count(path, count, len(table.data))

    return iterate(), partial(give_back, mapped)


def gather_columns(table: Dataset, names: Sequence[str], numbers: Rows) -> Iterator[Columns]:
    """Yield some columns of numbers of the rows `numbers`, (rows,), in their order, which may fall and rise again."""
    for start, stop in _find_rising(numbers):
        at = start
        for first, columns in iterate_columns(table, names):
            behind = first + len(columns[names[0]])
            until = at + int(np.searchsorted(numbers[at:stop], behind))
            if at < until:
                wanted = np.array(numbers[at:until]) - first
                yield {name: column[wanted] for name, column in columns.items()}
                give_back_pages(numbers)
            at = until
            if at == stop:
                break


def _find_rising(numbers: Rows) -> Iterator[tuple[int, int]]:
    """Cut numbers where one is not above the one before: of [1, 4, 2, 3, 3] these are (0, 2), (2, 4) and (4, 5)."""
    begin, last = 0, -1
    for start, piece in iterate_pieces(numbers):
        for fall in np.flatnonzero(np.diff(piece, prepend=last) <= 0).tolist():
            yield begin, start + fall
            begin = start + fall
        last = int(piece[-1])
    yield begin, len(numbers)


def read_values(table: Dataset, column: str, numbers: Rows) -> list[Any]:
    """Read one column of the rows `numbers`, (rows,), ascending and distinct: a Python value for each."""
    return [value for _, some in _select(table.data.column(column).chunks, numbers) for value in some.to_pylist()]


def number_rows(rows: Dataset) -> Rows:
    """Which rows of its table are those of a data set, (rows,): that of a selection has those left out, too."""
    if rows._indices is None:
        return np.arange(len(rows), dtype=np.int64)
    return np.asarray(rows._indices.column(0).to_numpy()).view(np.int64)


def encode_values(table: Dataset, column: str) -> tuple[Codes, list[Any]]:
    """Encode a column by its values in the order of their first rows: codes (rows,), mapped, and the values."""
    known: dict[Any, int] = {}
    codes = map_numbers(_encode(table, column, known), np.int32)
    return codes, list(known)


def _encode(table: Dataset, column: str, known: dict[Any, int]) -> Iterator[Codes]:
    """Yield the codes of a column, a record batch at a time; values that are new are added to `known`."""
    stored, give_back_table = map_table(table)
    for batch in stored:
        encoded = pc.dictionary_encode(batch.column(column))
        here = [known.setdefault(value, len(known)) for value in encoded.dictionary.to_pylist()]
        yield np.array(here, np.int32)[encoded.indices.to_numpy()]
        give_back_table()
