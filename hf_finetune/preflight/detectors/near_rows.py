"""Pairs of rows that are nearly the same: some rows are indexed, and others, of any number, are held against them.

Rows are near where the Jaccard similarity of their sets of three words in a row (shingles) is at least a half: one word
in eight may differ. Of text without blanks between words a shingle is five signs in a row. Candidates share enough of a
sketch, the shingles with the smallest hashes (MinHash with one permutation, https://doi.org/10.1109/SEQUEN.1997.666900),
and are then compared by all of theirs. What is in many of the indexed rows is a form and does not count, nor do system
messages: that bounds how many pairs there can be.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
import pyarrow as pa
from datasets import Dataset

from hf_finetune.data.splitting.assignment import Hashes, Rows, sort_distinct
from hf_finetune.data.splitting.batches import iterate_batches
from hf_finetune.data.splitting.overlap import hash_ngrams, hash_spoken
from hf_finetune.preflight.detectors.lookup import Lookup

# Where one word in eight is another, (7/8)**3 = 0.67 of the shingles of a row stay, and 0.67 / (2 - 0.67) is a half.
SHINGLE = 3
NEAR = 0.5
_SKETCH = 16
_OF_A_SKETCH = 0.4
"""Of a pair at `NEAR`, rows of one length, two thirds are expected: fewer are shared once in 50."""
_FEWEST = 8
"""Shingles: shorter rows are alike by chance."""
# Indexed rows that may share a shingle, before it counts as part of a form.
_MANY = 20
_AT_ONCE = 2**23

Small = npt.NDArray[np.uint32]


@dataclass(frozen=True, slots=True)
class NearRows:
    """For each indexed row the first row that is near it, or -1, and how alike they are: (indexed,) both."""

    near: Rows
    likeness: npt.NDArray[np.float64]


def find_near_rows(
    indexed: tuple[Dataset, Rows], others: tuple[Dataset, Rows], skip: npt.NDArray[np.bool_]
) -> NearRows:
    """Find for each row of `indexed`, but those to `skip`, a row of `others` that is near it.

    Both are a table and its row numbers there, (rows,), ascending and distinct; `skip`: (indexed rows,). Memory is that
    of `_AT_ONCE` words of `indexed`, some 300 MB, and 16 bytes a row of it: for each so many `others` are read once.
    """
    near, likeness = np.full(len(skip), -1, np.int64), np.zeros(len(skip))
    for first, index in _iterate_indexes(*indexed, skip):
        comparison = _Comparison(index)
        for start, batch in iterate_batches(*others) if len(index.rows) else ():
            comparison.compare(start, batch)
        here = slice(first, first + len(index.sizes))
        near[here], likeness[here] = comparison.near, comparison.likeness
    return NearRows(near, likeness)


@dataclass(frozen=True, slots=True)
class _Index:
    """Sketches, sorted, with the row of each hash; all shingles of each row; those of a form, which do not count."""

    sketches: Lookup
    rows: Rows
    sizes: Rows
    """Of the sketch of each row: (rows,)."""
    shingles: Small
    starts: Rows
    form: Lookup


def _iterate_indexes(table: Dataset, numbers: Rows, skip: npt.NDArray[np.bool_]) -> Iterator[tuple[int, _Index]]:
    """Yield indexes of consecutive rows, with the number of the first of them."""
    first, held, parts = 0, 0, list[tuple[Hashes, Rows]]()
    for start, batch in iterate_batches(table, numbers):
        shingles, row_of, _ = _sort_distinct_pairs(*hash_ngrams(*hash_spoken(batch), SHINGLE))
        kept = ~skip[start + row_of]
        parts.append((shingles[kept], start - first + row_of[kept]))
        held, stop = held + len(shingles), start + len(batch)
        if held >= _AT_ONCE or stop == len(numbers):
            hashes, rows = (np.concatenate(each) for each in zip(*parts, strict=True))
            yield first, _index_rows(hashes, rows, stop - first)
            first, held, parts = stop, 0, []


def _index_rows(shingles: Hashes, row_of: Rows, count: int) -> _Index:
    """Index `count` rows by their distinct shingles, sorted within each, and the row of each: (shingles,) both."""
    form = Lookup(_find_form(shingles))
    keep = ~form.has(shingles)
    shingles, row_of = shingles[keep], row_of[keep]
    counts = np.bincount(row_of, minlength=count)
    starts = np.cumsum(counts) - counts
    # Shingles of a row are sorted: the first of them are its sketch.
    rank = np.arange(len(row_of)) - starts[row_of]
    drawn = (rank < _SKETCH) & (counts[row_of] >= _FEWEST)
    order = np.argsort(shingles[drawn], kind="stable")
    # Two rows are compared by the upper half of each hash, which takes half of the memory and has the same order.
    small = (shingles >> np.uint64(32)).astype(np.uint32)
    return _Index(
        *(Lookup(shingles[drawn][order]), row_of[drawn][order], np.minimum(counts, _SKETCH)),
        *(small, np.append(starts, len(small)), form),
    )


def _sort_distinct_pairs(hashes: Hashes, row_of: Rows) -> tuple[Hashes, Rows, Rows]:
    """Sort hashes by row and leave repeats out: hashes, rows, and where they were, (distinct,) each."""
    order = np.lexsort((hashes, row_of))
    hashes, row_of = hashes[order], row_of[order]
    first = np.ones(len(order), np.bool_)
    first[1:] = (hashes[1:] != hashes[:-1]) | (row_of[1:] != row_of[:-1])
    return hashes[first], row_of[first], order[first]


def _find_form(shingles: Hashes) -> Hashes:
    """Find what is in more than `_MANY` rows: sorted hashes."""
    ordered = np.sort(shingles)
    # No row has a shingle twice here: a hash that is there again twenty places on is in more than twenty rows.
    many = ordered[:-_MANY][ordered[:-_MANY] == ordered[_MANY:]]
    return sort_distinct(many)


class _Comparison:
    """Rows that are read one after another, held against an index."""

    def __init__(self, index: _Index) -> None:
        self.index = index
        self.near = np.full(len(index.sizes), -1, np.int64)
        self.likeness = np.zeros(len(index.sizes))

    def compare(self, first: int, batch: pa.RecordBatch) -> None:
        """Compare a batch, whose first row is number `first`, with the rows for which none was found so far."""
        shingles, row_of = hash_ngrams(*hash_spoken(batch), SHINGLE)
        ends = np.cumsum(np.bincount(row_of, minlength=len(batch)))
        starts = np.append(0, ends)
        for row, other in self._list_candidates(shingles, row_of):
            likeness = self._measure(row, shingles[starts[other] : ends[other]])
            if likeness >= NEAR:
                self.near[row], self.likeness[row] = first + other, likeness

    def _list_candidates(self, shingles: Hashes, row_of: Rows) -> list[tuple[int, int]]:
        """Pair each indexed row with the row of a batch that shares most of its sketch, if that is enough."""
        index = self.index
        found, left, right = index.sketches.find(shingles)
        _, rows_of_found, once = _sort_distinct_pairs(shingles[found], row_of[found])
        left, sizes = left[once], (right - left)[once]
        # All places of all ranges: of ranges that begin at [4 9] and are [2 3] long, [4 5 9 10 11].
        at = np.repeat(left - (np.cumsum(sizes) - sizes), sizes) + np.arange(int(sizes.sum()))
        # A pair is one number: np.unique of two columns would sort them as structures, which takes many times as long.
        pairs = index.rows[at] << 32 | np.repeat(rows_of_found, sizes)
        pairs, shared = np.unique(pairs, return_counts=True)
        rows, others = pairs >> 32, pairs & 0xFFFFFFFF
        enough = (shared >= _OF_A_SKETCH * index.sizes[rows]) & (self.near[rows] < 0)
        rows, others, shared = rows[enough], others[enough], shared[enough]
        # The last key counts first: by indexed row, then those that share most, then the first of the others.
        order = np.lexsort((others, -shared, rows))
        rows, others = rows[order], others[order]
        # Cut, for where there are no rows the one that is put in front would be there alone.
        best = np.append(True, rows[1:] != rows[:-1])[: len(rows)]
        return list(zip(rows[best].tolist(), others[best].tolist(), strict=True))

    def _measure(self, row: int, shingles: Hashes) -> float:
        """Compute the Jaccard similarity of an indexed row and another by its `shingles`, (shingles,)."""
        shingles = sort_distinct(shingles)
        own = self.index.shingles[self.index.starts[row] : self.index.starts[row + 1]]
        others = (shingles[~self.index.form.has(shingles)] >> np.uint64(32)).astype(np.uint32)
        shared = len(np.intersect1d(own, others))
        return shared / max(1, len(own) + len(others) - shared)
