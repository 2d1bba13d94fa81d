"""Examples -> blocks of several examples each, with as little padding as best fit leaves."""

from __future__ import annotations

from bisect import bisect_left, insort
from itertools import pairwise

import numpy as np
import numpy.typing as npt
import pyarrow as pa
from datasets import Dataset, Features, List, Value

from hf_finetune.data.cache import Batches, cached_dataset
from hf_finetune.data.packing import IGNORE_INDEX

FEATURES = Features(
    {"input_ids": List(Value("int32")), "labels": List(Value("int32")), "seq_lengths": List(Value("int32"))}
)
BINS_PER_BATCH = 1_000

IntArray = npt.NDArray[np.int64]


def pack_rows(rows: Dataset, block: int) -> tuple[Dataset, float]:
    """Pack `rows` (`input_ids`, `labels`) into bins of at most `block` tokens; returns also the share of real tokens.

    Columns are `input_ids`, `labels` and `seq_lengths`, the lengths of a bin's examples. No example is cut, and its
    first label is -100: nothing predicts it. Bins stand in the order of their first examples, examples in that of the
    rows. Raises ValueError for an example longer than `block`.
    """
    made_from = {"rows": rows._fingerprint, "block": block}
    packed, facts = cached_dataset("bins", made_from, FEATURES, lambda: _pack(rows, block))
    return packed, facts["tokens"] / (len(packed) * block)


def best_fit(lengths: IntArray, capacity: int) -> IntArray:
    """Number of the bin that each length goes to: longest first, each into the fullest bin that still takes it.

    All of one length are placed at once. The fullest bin that takes one goes on taking more of them as long as it can,
    so that the work is in distinct lengths and distinct spaces left, not in rows.
    """
    if lengths.max() > capacity:
        raise ValueError(f"an example of {lengths.max():,} tokens does not fit into {capacity:,}")
    order = np.argsort(-lengths, kind="stable")
    changes = np.flatnonzero(np.diff(lengths[order])) + 1
    bins = np.empty(len(lengths), np.int64)
    free: dict[int, IntArray] = {}  # space left -> bins that have it
    spaces: list[int] = []  # its keys in order
    opened = 0
    for start, stop in pairwise([0, *changes.tolist(), len(order)]):
        length = int(lengths[order[start]])
        while start < stop:
            position = bisect_left(spaces, length)
            if position < len(spaces):
                space = spaces.pop(position)
                having = free.pop(space)
            else:
                space, having = capacity, np.arange(opened, opened - (start - stop) // (capacity // length))
                opened += len(having)
            each = space // length
            used, rest = np.split(having, [-((start - stop) // each)])
            placed = np.repeat(used, each)[: stop - start]
            bins[order[start : start + len(placed)]] = placed
            start += len(placed)
            left_by_last = space - length * (len(placed) - each * (len(used) - 1))
            for left, which in ((space, rest), (space % length, used[:-1]), (left_by_last, used[-1:])):
                _put(free, spaces, left, which)
    return bins


def _put(free: dict[int, IntArray], spaces: list[int], space: int, bins: IntArray) -> None:
    if space == 0 or not len(bins):
        return
    if space not in free:
        insort(spaces, space)
        free[space] = bins
    else:
        free[space] = np.concatenate([free[space], bins])


def _pack(rows: Dataset, block: int) -> Batches:
    columns = {name: _documents(rows, name) for name in ("input_ids", "labels")}
    lengths = np.array([len(document) for document in columns["input_ids"]], np.int64)
    bins = best_fit(lengths, block)
    first_row = np.full(bins.max() + 1, len(rows))
    np.minimum.at(first_row, bins, np.arange(len(rows)))
    order = np.argsort(first_row[bins], kind="stable")  # rows of a bin together, bins by their first row
    ends = np.append(np.flatnonzero(np.diff(bins[order])) + 1, len(order))
    for first in range(0, len(ends), BINS_PER_BATCH):
        batch_ends = ends[first : first + BINS_PER_BATCH]
        start = int(ends[first - 1]) if first else 0
        yield _record_batch(columns, lengths, order[start : batch_ends[-1]], batch_ends - start)
    return {"tokens": int(lengths.sum())}


def _documents(rows: Dataset, name: str) -> list[npt.NDArray[np.int32]]:
    """One array per row: views into the memory-mapped column."""
    documents = []
    table = rows.data if rows._indices is None else rows.flatten_indices().data
    for chunk in table.column(name).chunks:
        bounds = (chunk.offsets.to_numpy() - chunk.offsets[0].as_py()).tolist()
        values = chunk.flatten().to_numpy().astype(np.int32, copy=False)
        documents += [values[start:stop] for start, stop in pairwise(bounds)]
    return documents


def _record_batch(
    columns: dict[str, list[npt.NDArray[np.int32]]], lengths: IntArray, rows: IntArray, ends: IntArray
) -> pa.RecordBatch:
    """`rows` in order; a bin ends before each of `ends`."""
    sizes = lengths[rows]
    starts = np.cumsum(sizes) - sizes
    bounds = np.concatenate([[0], ends])
    token_bounds = np.append(starts, sizes.sum())[bounds]
    ids, labels = (np.concatenate([documents[row] for row in rows]) for documents in columns.values())
    labels[starts[sizes > 0]] = IGNORE_INDEX
    arrays = [_lists(token_bounds, ids), _lists(token_bounds, labels), _lists(bounds, sizes)]
    return pa.RecordBatch.from_arrays(arrays, schema=FEATURES.arrow_schema)


def _lists(bounds: IntArray, values: npt.NDArray[np.integer]) -> pa.ListArray:
    return pa.ListArray.from_arrays(bounds.astype(np.int32), values.astype(np.int32))
