"""Rows that were trained, told from new ones by the prints of a run: copies, and rows that share 13 words in a row."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import numpy as np
import numpy.typing as npt
from datasets import Dataset

from hf_finetune.data.splitting.assignment import Hashes, sort_distinct
from hf_finetune.data.splitting.batches import number_rows
from hf_finetune.data.splitting.overlap import iterate_fingerprints
from hf_finetune.data.splitting.splits import Splits
from hf_finetune.data.splitting.train_prints import find_prints, read_user_key
from hf_finetune.folders import STREAM_PRINTS
from hf_finetune.row_prints import RowPrints, key_hashes, read_row_prints, write_row_prints

Flags = npt.NDArray[np.bool_]


@dataclass(frozen=True)
class SeenRows:
    """Which rows a run has trained: (rows,) each."""

    copies: Flags
    """Whether the text of the row is that of a training row, but for case and white space."""
    shares_ngram: Flags
    """Whether it shares 13 words in a row with one."""


def keep_row_prints(folder: Path, splits: Splits, *, resume: bool) -> None:
    """Write the prints of the rows of a run into its folder; those of a resumed run are of the same rows, and stay."""
    if not resume:
        (folder / STREAM_PRINTS).unlink(missing_ok=True)  # of a run that failed here
    if not resume or read_row_prints(folder) is None:
        write_row_prints(folder, make_row_prints(splits, read_user_key()))


def make_row_prints(splits: Splits, key: bytes) -> RowPrints:
    """Hash the rows of a run under `key`."""
    if splits.trained is not None:
        found = find_prints(splits.trained, key, splits.num_proc)
    else:  # whose parts are added when they are trained
        found = {"texts": np.empty(0, np.uint64), "ngrams": np.empty(0, np.uint64)}
    rows = {name: key_hashes(hashes, key) for name, hashes in splits.hashes.items() if name != "train"}
    return RowPrints(key, found["texts"], found["ngrams"], rows)


def find_seen_rows(rows: Dataset, prints: RowPrints) -> SeenRows:
    """Look for the rows of a data set among those that a run has trained."""
    numbers = number_rows(rows)
    distinct = sort_distinct(numbers)
    copies, shares = np.zeros(len(distinct), np.bool_), np.zeros(len(distinct), np.bool_)
    for start, found in iterate_fingerprints(rows, distinct, prints.key):
        for texts in (prints.texts, *prints.parts):
            copies[start : start + len(found.rows)] |= _is_in(found.rows, texts)
        shares[start + found.run_rows[_is_in(found.runs, prints.ngrams)]] = True
    place = np.searchsorted(distinct, numbers)
    return SeenRows(copies[place], shares[place])


def _is_in(hashes: Hashes, known: Hashes) -> Flags:
    """Whether each of `hashes` is in `known`, which is sorted: (hashes,)."""
    if not len(known):
        return np.zeros(len(hashes), np.bool_)
    at = np.minimum(np.searchsorted(known, hashes), len(known) - 1)
    return np.asarray(known[at] == hashes, np.bool_)
