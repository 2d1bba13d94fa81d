"""Prints of the rows of a stream: which of them are held out, and which were read, part by part."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path

import numpy as np
import numpy.typing as npt
from datasets import Dataset

from hf_finetune.data.splitting.assignment import Hashes, sort_distinct
from hf_finetune.data.splitting.overlap import Fingerprints, iterate_fingerprints
from hf_finetune.data.splitting.train_prints import MAX_NGRAMS
from hf_finetune.row_prints import append_row_prints, read_row_prints, write_arrays, write_row_prints


def hash_held_out(rows: Mapping[str, Dataset], key: bytes) -> Hashes:
    """The prints of the texts of all splits but train, sorted: 8 bytes a row."""
    # Of these alone: the rows of the stream are looked up in them, and nothing is kept of the stream.
    found = [np.empty(0, np.uint64)]
    for table in rows.values():
        numbers = np.arange(len(table), dtype=np.int64)
        found += [prints.rows for _, prints in iterate_fingerprints(table, numbers, key)]
    return sort_distinct(np.concatenate(found))


def find_prints(rows: Dataset, key: bytes) -> Fingerprints:
    """The prints of the rows of a chunk."""
    found = [each for _, each in iterate_fingerprints(rows, np.arange(len(rows), dtype=np.int64), key)]
    runs = np.concatenate([each.runs for each in found])
    return Fingerprints(np.concatenate([each.rows for each in found]), runs, np.empty(0, np.int64))


def find_copies(prints: Hashes, held_out: Hashes) -> npt.NDArray[np.bool_]:
    """Whether each of `prints`, (rows,), is that of a row that is held out."""
    if not len(held_out):
        return np.zeros(len(prints), np.bool_)
    at = np.minimum(np.searchsorted(held_out, prints), len(held_out) - 1)
    return np.asarray(held_out[at] == prints, np.bool_)


class PartPrints:
    """Takes the prints of the chunks of a part."""

    def __init__(self) -> None:
        self._texts: list[Hashes] = [np.empty(0, np.uint64)]
        self._ngrams = np.empty(0, np.uint64)

    def add(self, prints: Fingerprints, kept: npt.NDArray[np.bool_]) -> None:
        """Take the prints of a chunk's rows; runs of words, of which a sample is kept, are those of all of them."""
        # The smallest hashes are a sample that can be merged, part by part, without the others.
        self._texts.append(prints.rows[kept])
        self._ngrams = sort_distinct(np.concatenate([self._ngrams, prints.runs]))[:MAX_NGRAMS]

    def write(self, path: Path) -> None:
        """Write them beside the part. Raises OSError."""
        write_arrays(path, {"texts": sort_distinct(np.concatenate(self._texts)), "ngrams": self._ngrams})


def keep_part_prints(folder: Path, number: int, texts: Hashes, ngrams: Hashes) -> None:
    """Add the prints of a part, which is trained now, to those of its run. Raises OSError."""
    append_row_prints(folder, number, texts)
    known = read_row_prints(folder, parts=False)
    if known is not None:
        merged = sort_distinct(np.concatenate([known.ngrams, ngrams]))[:MAX_NGRAMS]
        write_row_prints(folder, replace(known, ngrams=merged))
