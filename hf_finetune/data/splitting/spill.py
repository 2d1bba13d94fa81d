"""Hashes of more rows than memory may hold, on disk, in 256 parts by their first bits: equal ones are in one part.

What databases do for a join (https://en.wikipedia.org/wiki/Hash_join#Grace_hash_join): each part is looked at alone,
in a 256th of the memory. Their files have no name: nothing is left of them when a process is killed.
"""

from __future__ import annotations

import hashlib
import tempfile
import weakref
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from typing import IO, Any

import numpy as np
import numpy.typing as npt

from hf_finetune.cache.keys import place_in_cache
from hf_finetune.data.splitting.assignment import Hashes, Rows

PARTS = 256
_PART_SHIFT = np.uint64(56)
HELD_AT_ONCE = 2**18
"""Hashes that wait for being written: with the number of each, 4 MiB."""
COMPARED_AT_ONCE = 2**16

Pieces = Iterable[tuple[Hashes, Rows]]


@dataclass(frozen=True, slots=True)
class Distinct:
    """The hashes of one part, sorted and each once, the first number of each and how often it was added: (hashes,)."""

    hashes: Hashes
    firsts: Rows
    counts: Rows


@dataclass(frozen=True, slots=True)
class _Run:
    """Hashes and their numbers in the order of the parts; part `p` is what stands between `bounds[p]` and the next."""

    bounds: Rows
    hashes: Hashes
    numbers: Rows
    at: int = 0
    """The byte of the file where the hashes begin, and behind them the numbers: both arrays are empty then."""


class Spill:
    """Takes hashes with a number each, and gives them back part by part, each part in the order they were added.

    `add` and `read` raise OSError, as on a full disk.
    """

    def __init__(self) -> None:
        self.total = 0
        self._waiting: list[tuple[Hashes, Rows]] = []
        self._held = 0
        self._runs: list[_Run] = []
        self._file: IO[bytes] | None = None

    def add(self, hashes: Hashes, numbers: Rows) -> None:
        """Take hashes and their numbers, (hashes,) both."""
        self._waiting.append((hashes, numbers))
        self._held += len(hashes)
        self.total += len(hashes)
        if self._held >= HELD_AT_ONCE:
            self._runs.append(self._write(self._order()))

    def read(self, part: int) -> Iterator[tuple[Hashes, Rows]]:
        """Yield the hashes and numbers of one part in pieces, in the order they were added."""
        if self._waiting:  # what is left stays in memory: small tables never touch the disk
            self._runs.append(self._order())
        for run in self._runs:
            start, stop = run.bounds[part : part + 2].tolist()
            if start == stop:
                continue
            if not run.at:
                yield run.hashes[start:stop], run.numbers[start:stop]
            else:
                behind = run.at + 8 * int(run.bounds[-1])
                yield self._load(run.at, start, stop, np.uint64), self._load(behind, start, stop, np.int64)

    def _order(self) -> _Run:
        hashes = np.concatenate([hashes for hashes, _ in self._waiting])
        numbers = np.concatenate([numbers for _, numbers in self._waiting])
        self._waiting, self._held = [], 0
        parts = (hashes >> _PART_SHIFT).astype(np.uint8)
        order = np.argsort(parts, kind="stable")
        bounds = np.append(0, np.cumsum(np.bincount(parts, minlength=PARTS)))
        return _Run(bounds, hashes[order], numbers[order])

    def _write(self, run: _Run) -> _Run:
        if self._file is None:
            # Unbuffered: of a full disk nothing is left to be written when it is closed, as it is with the spill.
            self._file = tempfile.TemporaryFile(dir=place_in_cache("spill").parent, buffering=0)  # noqa: SIM115
            weakref.finalize(self, self._file.close)
            self._file.write(bytes(8))  # no run begins at 0
        at = self._file.seek(0, 2)
        for array in (run.hashes, run.numbers):
            left = array.data.cast("B")
            while left:
                left = left[self._file.write(left) :]
        nothing = np.empty(0, np.int64)
        return _Run(run.bounds, nothing.view(np.uint64), nothing, at)

    def _load(self, begin: int, start: int, stop: int, kind: type[np.generic]) -> npt.NDArray[Any]:
        assert self._file is not None
        self._file.seek(begin + 8 * start)
        return np.frombuffer(self._file.read(8 * (stop - start)), kind)

    def read_distinct(self, part: int) -> Distinct:
        """Read one part, equal hashes once; memory is that of the distinct ones, however often each is there."""
        nothing = np.empty(0, np.int64)
        known, waiting, held = Distinct(nothing.view(np.uint64), nothing, nothing), list[Distinct](), 0
        for hashes, numbers in self.read(part):
            waiting.append(Distinct(hashes, numbers, np.ones(len(hashes), np.int64)))
            held += len(hashes)
            if held >= max(COMPARED_AT_ONCE, len(known.hashes)):
                known, waiting, held = _merge([known, *waiting]), [], 0
        return _merge([known, *waiting]) if waiting else known


def _merge(parts: list[Distinct]) -> Distinct:
    hashes = np.concatenate([part.hashes for part in parts])
    order = np.argsort(hashes, kind="stable")  # of equal ones the first stays the first
    hashes = hashes[order]
    starts = np.flatnonzero(np.append(True, hashes[1:] != hashes[:-1]))
    firsts = np.concatenate([part.firsts for part in parts])[order[starts]]
    counts = np.add.reduceat(np.concatenate([part.counts for part in parts])[order], starts)
    return Distinct(hashes[starts], firsts, counts)


def find_places(hashes: Hashes, known: Hashes) -> tuple[Rows, Rows]:
    """Which of `hashes` are in `known`, sorted and distinct, and where there: both (found,)."""
    if not len(known):
        return np.empty(0, np.int64), np.empty(0, np.int64)
    at = np.minimum(np.searchsorted(known, hashes), len(known) - 1)
    found = np.flatnonzero(known[at] == hashes)
    return found, at[found]


def find_repeats(pieces: Pieces, most: int) -> tuple[int, list[tuple[int, int]]]:
    """Count what is the copy of an earlier one, and find the first `most` of them, each with its first one.

    `pieces` are hashes with their ascending numbers.
    """
    # Hashes [7, 5, 7, 7] of the rows 0 to 3: rows 2 and 3 are copies of row 0.
    spill, copies, first = spill_pieces(pieces), 0, list[tuple[int, int]]()
    for part in range(PARTS):
        distinct = spill.read_distinct(part)
        if len(distinct.hashes) == (total := int(distinct.counts.sum())):
            continue
        copies += total - len(distinct.hashes)
        for hashes, numbers in spill.read(part):
            original = distinct.firsts[np.searchsorted(distinct.hashes, hashes)]
            some = np.flatnonzero(original != numbers)[:most]
            first += zip(numbers[some].tolist(), original[some].tolist(), strict=True)
        first = sorted(first)[:most]
    return copies, first


def spill_pieces(pieces: Pieces) -> Spill:
    """Take all of `pieces`, hashes with a number each."""
    spill = Spill()
    for hashes, numbers in pieces:
        spill.add(hashes, numbers)
    return spill


def iterate_distinct(spill: Spill) -> Iterator[Hashes]:
    """Yield all hashes in ascending order, each once."""
    for part in range(PARTS):
        yield spill.read_distinct(part).hashes


def hash_membership(pieces: Iterable[Hashes]) -> tuple[int, str]:
    """Count the distinct rows of a split, and hash the set of its rows, whatever their order, by all their hashes."""
    spill = spill_pieces((hashes, np.zeros(len(hashes), np.int64)) for hashes in pieces)
    digest, distinct = hashlib.sha256(), 0
    for part in range(PARTS):
        found = spill.read_distinct(part)
        distinct += len(found.hashes)
        # Of one row a million times the hash is hashed as often, some at a time.
        ends = np.cumsum(found.counts)
        for start in range(0, int(found.counts.sum()), COMPARED_AT_ONCE):
            places = np.arange(start, min(start + COMPARED_AT_ONCE, int(ends[-1])))
            # Big-endian, so that the digest is the same on every machine.
            digest.update(found.hashes[np.searchsorted(ends, places, "right")].astype(">u8").data)
    return distinct, digest.hexdigest()
