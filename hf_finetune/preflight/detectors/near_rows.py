"""Pairs of rows that are nearly the same: some rows are indexed, and others, of any number, are held against them.

Rows are near where the Jaccard similarity of their sets of three words in a row (shingles) is at least a half: one word
in eight may differ. Candidates share enough of a sketch, the shingles with the smallest hashes (MinHash with one
permutation, https://doi.org/10.1109/SEQUEN.1997.666900), and are then compared by all of theirs. What is in many of
the indexed rows is a form and does not count, nor do system messages: that bounds how many pairs there can be.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
import pyarrow as pa
from datasets import Dataset

from hf_finetune.data.splitting.assignment import Hashes, Rows
from hf_finetune.data.splitting.batches import iterate_batches
from hf_finetune.data.splitting.overlap import hash_ngrams, hash_spoken
from hf_finetune.data.workers import map_rows

SHINGLE = 3
NEAR = 0.5
_SKETCH = 16
_OF_A_SKETCH = 0.4
"""Of a pair at `NEAR`, rows of one length, two thirds are expected: fewer are shared once in 50."""
_FEWEST = 8
"""Shingles: shorter rows are alike by chance."""
_MANY = 20
_FLAGS_A_HASH = 8

Small = npt.NDArray[np.uint32]


@dataclass(frozen=True, slots=True)
class NearRows:
    """For each indexed row the first row that is near it, or -1, and how alike they are: (indexed,) both."""

    near: Rows
    likeness: npt.NDArray[np.float64]


@dataclass(frozen=True, slots=True)
class _Pairs:
    indexed: Rows
    others: Rows
    likeness: npt.NDArray[np.float64]


def find_near_rows(
    indexed: tuple[Dataset, Rows], others: tuple[Dataset, Rows], skip: npt.NDArray[np.bool_], processes: int = 1
) -> NearRows:
    """Find for each row of `indexed`, but those to `skip`, a row of `others` that is near it.

    Both are a table and its row numbers there, (rows,), ascending and distinct; `skip`: (indexed rows,). Memory grows
    with `indexed` (4 bytes a word, 300 a row), not with `others`.
    """
    work = _Comparison(_index_rows(*indexed, skip))
    near, likeness = np.full(len(skip), -1, np.int64), np.zeros(len(skip))
    batches = ((start, pa.Table.from_batches([batch])) for start, batch in iterate_batches(*others))
    for pairs in map_rows(work, batches, processes) if len(work.index.hashes) else ():
        new = near[pairs.indexed] < 0
        near[pairs.indexed[new]] = pairs.others[new]
        likeness[pairs.indexed[new]] = pairs.likeness[new]
    return NearRows(near, likeness)


@dataclass(frozen=True, slots=True)
class _Index:
    """Sketches, sorted, with the row of each hash; all shingles of each row; those of a form, which do not count."""

    hashes: Hashes
    rows: Rows
    sizes: Rows
    """Of the sketch of each row: (rows,)."""
    flags: npt.NDArray[np.bool_]
    shift: np.uint64
    shingles: Small
    starts: Rows
    form: Hashes


def _index_rows(table: Dataset, numbers: Rows, skip: npt.NDArray[np.bool_]) -> _Index:
    shingles, row_of = _hash_all(table, numbers, skip)
    form = _find_form(shingles)
    keep = ~_is_in(shingles, form)
    shingles, row_of = shingles[keep], row_of[keep]
    counts = np.bincount(row_of, minlength=len(numbers))
    starts = np.cumsum(counts) - counts
    # Shingles of a row are sorted: the first of them are its sketch.
    rank = np.arange(len(row_of)) - starts[row_of]
    drawn = (rank < _SKETCH) & (counts[row_of] >= _FEWEST)
    order = np.argsort(shingles[drawn], kind="stable")
    hashes, rows = shingles[drawn][order], row_of[drawn][order]
    shift = np.uint64(64 - max(8, int(_FLAGS_A_HASH * len(hashes)).bit_length()))
    flags = np.zeros(2 ** (64 - int(shift)), np.bool_)
    flags[hashes >> shift] = True
    small = (shingles >> np.uint64(32)).astype(np.uint32)
    sizes = np.minimum(counts, _SKETCH)
    return _Index(hashes, rows, sizes, flags, shift, small, np.append(starts, len(small)), form)


def _hash_all(table: Dataset, numbers: Rows, skip: npt.NDArray[np.bool_]) -> tuple[Hashes, Rows]:
    """Hash the distinct shingles of each row, sorted within it: hashes and rows, (shingles,) both."""
    parts, rows = [np.empty(0, np.uint64)], [np.empty(0, np.int64)]
    for start, batch in iterate_batches(table, numbers):
        shingles, row_of = _hash_shingles(batch)
        kept = ~skip[start + row_of]
        parts.append(shingles[kept])
        rows.append(start + row_of[kept])
    return np.concatenate(parts), np.concatenate(rows)


def _hash_shingles(batch: pa.RecordBatch) -> tuple[Hashes, Rows]:
    """Hash the distinct shingles of each row of a batch, as `_hash_all` does."""
    shingles, row_of = hash_ngrams(*hash_spoken(batch), SHINGLE)
    order = np.lexsort((shingles, row_of))
    shingles, row_of = shingles[order], row_of[order]
    first = np.ones(len(order), np.bool_)
    first[1:] = (shingles[1:] != shingles[:-1]) | (row_of[1:] != row_of[:-1])
    return shingles[first], row_of[first]


def _find_form(shingles: Hashes) -> Hashes:
    """Find what is in more than `_MANY` rows: sorted hashes."""
    ordered = np.sort(shingles)
    many = ordered[:-_MANY][ordered[:-_MANY] == ordered[_MANY:]]
    return np.unique(many)


def _is_in(hashes: Hashes, known: Hashes) -> npt.NDArray[np.bool_]:
    """Whether each of `hashes` is in `known`, which is sorted: (hashes,)."""
    if not len(known):
        return np.zeros(len(hashes), np.bool_)
    return np.asarray(known[np.minimum(np.searchsorted(known, hashes), len(known) - 1)] == hashes)


class _Comparison:
    """The work of `map_rows`: batches of other rows are looked up in the index."""

    def __init__(self, index: _Index) -> None:
        self.index = index
        # Here, and for the first of each process's own batches: what was found need not be found again.
        self.found = np.zeros(len(index.sizes), np.bool_)

    def read(self, first: int, table: pa.Table) -> tuple[int, pa.Table]:
        return first, table

    def encode(self, read: tuple[int, pa.Table]) -> tuple[int, pa.Table]:
        return read

    def build(self, encoded: tuple[int, pa.Table]) -> _Pairs:
        """Find the pairs of a batch: at most one for each indexed row."""
        first, table = encoded
        pairs = list(self._compare(first, table.to_batches()))
        self.found[[row for row, _, _ in pairs]] = True
        rows, others, likeness = zip(*pairs, strict=True) if pairs else ((), (), ())
        return _Pairs(np.array(rows, np.int64), np.array(others, np.int64), np.array(likeness, np.float64))

    def collect(self) -> None:
        """Nothing is counted."""

    def merge(self, collected: None) -> None:
        """Nothing was counted."""

    def _compare(self, first: int, batches: list[pa.RecordBatch]) -> Iterator[tuple[int, int, float]]:
        for batch in batches:
            shingles, row_of = _hash_shingles(batch)
            counts = np.bincount(row_of, minlength=len(batch))
            ends = np.cumsum(counts)
            for row, other in self._list_candidates(shingles, row_of):
                likeness = self._measure(row, shingles[ends[other] - counts[other] : ends[other]])
                if likeness >= NEAR:
                    yield row, first + other, likeness
            first += len(batch)

    def _list_candidates(self, shingles: Hashes, row_of: Rows) -> list[tuple[int, int]]:
        """Pair each indexed row with the row of a batch that shares most of its sketch, if that is enough."""
        index = self.index
        maybe = np.flatnonzero(index.flags[shingles >> index.shift])
        left, right = (np.searchsorted(index.hashes, shingles[maybe], side) for side in ("left", "right"))
        sizes = right - left
        at = np.repeat(left - (np.cumsum(sizes) - sizes), sizes) + np.arange(int(sizes.sum()))
        pairs = index.rows[at] << 32 | np.repeat(row_of[maybe], sizes)
        pairs, shared = np.unique(pairs, return_counts=True)
        rows, others = pairs >> 32, pairs & 0xFFFFFFFF
        enough = (shared >= _OF_A_SKETCH * index.sizes[rows]) & ~self.found[rows]
        rows, others, shared = rows[enough], others[enough], shared[enough]
        order = np.lexsort((others, -shared, rows))
        rows, others = rows[order], others[order]
        best = np.append(True, rows[1:] != rows[:-1])[: len(rows)]
        return list(zip(rows[best].tolist(), others[best].tolist(), strict=True))

    def _measure(self, row: int, shingles: Hashes) -> float:
        """Compute the Jaccard similarity of an indexed row and another by its `shingles`, (shingles,)."""
        own = self.index.shingles[self.index.starts[row] : self.index.starts[row + 1]]
        others = (shingles[~_is_in(shingles, self.index.form)] >> np.uint64(32)).astype(np.uint32)
        shared = len(np.intersect1d(own, others))
        return shared / max(1, len(own) + len(others) - shared)
