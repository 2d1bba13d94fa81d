"""Prints of the rows of a run, and of what its splits have in common: once for a selection of rows, kept in the cache.

One pass over the training rows serves both. The others of several processes, a resumed run and one with other settings
of training read what the first has found.
"""

from __future__ import annotations

import hashlib
import logging
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
from datasets import Dataset

from hf_finetune.cache.arrays import iterate_pieces, map_numbers
from hf_finetune.cache.entries import mark_used
from hf_finetune.cache.holding import find_or_make
from hf_finetune.cache.keys import compute_cache_key, place_in_cache
from hf_finetune.data.splitting.assignment import Hashes, Rows, sort_distinct
from hf_finetune.data.splitting.overlap import Fingerprints, Overlap, find_overlap, iterate_fingerprints
from hf_finetune.data.splitting.spill import Spill, iterate_distinct
from hf_finetune.row_prints import UNREADABLE, draw_key, map_arrays, write_arrays

logger = logging.getLogger(__name__)

# 8 MiB: all runs of 13 words of a small set, and of a large one those with the smallest hashes, which are drawn at
# random by the key: what shares a paragraph with a row of a book shares some of them.
MAX_NGRAMS = 2**20

Split = tuple[Dataset, Rows]
"""A table and the numbers of its rows, (rows,), ascending and distinct."""
Arrays = dict[str, npt.NDArray[Any]]


class PrintCollector:
    """Takes the fingerprints of training rows as they are computed."""

    def __init__(self) -> None:
        self._texts = Spill()
        self._ngrams = np.empty(0, np.uint64)
        self._waiting: list[Hashes] = []

    def add(self, start: int, prints: Fingerprints) -> None:
        """Take the prints of consecutive rows, of which the first is the row number `start`."""
        self._texts.add(prints.rows, np.arange(start, start + len(prints.rows)))
        full = len(self._ngrams) == MAX_NGRAMS
        self._waiting.append(prints.runs[prints.runs < self._ngrams[-1]] if full else prints.runs)
        if sum(map(len, self._waiting)) >= MAX_NGRAMS:
            self._merge()

    def _merge(self) -> None:
        self._ngrams = sort_distinct(np.concatenate([self._ngrams, *self._waiting]))[:MAX_NGRAMS]
        self._waiting = []

    def build_arrays(self) -> Arrays:
        """The prints of the rows' texts, sorted and without repeats, and the smallest `MAX_NGRAMS` n-grams."""
        self._merge()
        texts = map_numbers(iterate_distinct(self._texts), np.uint64)
        return {"texts": texts, "ngrams": self._ngrams}


def read_user_key() -> bytes:
    """The key of this user's prints. Raises OSError where there is no cache."""
    return draw_key(place_in_cache("row_prints.key"))


def find_prints(train: Split, key: bytes, num_proc: int | None = 1) -> Arrays:
    """The prints of the training rows under `key`, `texts` and `ngrams`; from the cache where they are there."""

    def compute() -> Arrays:
        collector = PrintCollector()
        for start, prints in iterate_fingerprints(*train, key, num_proc):
            collector.add(start, prints)
        return collector.build_arrays()

    return _load_or_compute(_place_prints(train, key), compute)


def compare_splits(
    train: Split, others: Mapping[str, Split], key: bytes, num_proc: int | None = 1
) -> dict[str, Overlap]:
    """`find_overlap` of the other splits with the training rows, from the cache where it is there."""

    def compute() -> Arrays:
        collector = PrintCollector()
        found = find_overlap(train, others, key, collector.add, num_proc)
        _keep(_place_prints(train, key), collector.build_arrays())
        copies = {f"copy_of/{name}": overlap.copy_of for name, overlap in found.items()}
        return copies | {f"shares_ngram/{name}": overlap.shares_ngram for name, overlap in found.items()}

    made_from = [_name_rows(train), {name: _name_rows(split) for name, split in others.items()}]
    arrays = _load_or_compute(_place("overlap", made_from, key), compute)
    return {name: Overlap(arrays[f"copy_of/{name}"], arrays[f"shares_ngram/{name}"]) for name in others}


def _name_rows(split: Split) -> list[str]:
    """What tells the rows of a split from all others: the file of its table, whose name is a hash, and the numbers."""
    table, numbers = split
    digest = hashlib.sha256()
    for _, piece in iterate_pieces(numbers):
        digest.update(piece.astype("<i8", copy=False).data)
    return [*name_files(table), digest.hexdigest()]


def name_files(table: Dataset) -> list[str]:
    """What tells a table from all others: the names of its files, which are hashes."""
    return [Path(each["filename"]).name for each in table.cache_files] or [table._fingerprint]


def _place_prints(train: Split, key: bytes) -> Path:
    return _place("prints", _name_rows(train), key)


def _place(kind: str, made_from: Any, key: bytes) -> Path:
    return place_in_cache(f"{kind}-{compute_cache_key([made_from, MAX_NGRAMS, hashlib.sha256(key).hexdigest()])}.npz")


def _load_or_compute(path: Path, compute: Callable[[], Arrays]) -> Arrays:
    def make() -> Arrays:
        found = compute()
        _keep(path, found)
        return found

    try:
        return find_or_make(path, lambda: _read(path), make)
    except OSError as problem:  # as on a full disk
        logger.debug("%s is not kept: %s", path.name, problem)
        return compute()


def _read(path: Path) -> Arrays | None:
    try:
        arrays = map_arrays(path)
    except UNREADABLE:
        return None
    mark_used(path)
    return arrays


def _keep(path: Path, arrays: Arrays) -> None:
    try:
        write_arrays(path, arrays)
    except OSError as problem:  # as on a full disk: they are computed again another time
        logger.debug("%s is not kept: %s", path.name, problem)
