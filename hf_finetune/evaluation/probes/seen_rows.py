"""Were these rows trained? By the record of the run and of those before it: an adapter's base, a merged model's run."""

from __future__ import annotations

import json
import logging
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
from datasets import Dataset

from hf_finetune.data.splitting.assignment import Hashes
from hf_finetune.data.splitting.seen_rows import Flags, find_seen_rows
from hf_finetune.folders import EXPORT, MANIFEST, is_run_folder
from hf_finetune.models.files.ancestors import find_gone_origin, iterate_trained_folders
from hf_finetune.privacy import redact_path
from hf_finetune.row_prints import RowPrints, read_row_prints

logger = logging.getLogger(__name__)

MAX_PLACES = 5
HASH_DIGITS = 16

Place = tuple[str, int]


@dataclass(frozen=True)
class TrainingRecords:
    """What is known of the rows that a model was trained on."""

    prints: dict[str, RowPrints] = field(default_factory=dict)
    """By the name of the run folder, that of the model first."""
    older: dict[str, set[str]] = field(default_factory=dict)
    """The hashes of rows in the manifests of runs of older versions, which tell exact copies alone."""
    unknown: list[str] = field(default_factory=list)
    """Run folders that keep no record."""


def read_training_records(path: str) -> TrainingRecords:
    """Read the records of the run in `path`, and of those that it was tuned from, where they are on this machine."""
    found = TrainingRecords()
    for folder in iterate_trained_folders(path):
        name = redact_path(str(folder))
        if (prints := read_row_prints(folder)) is not None:
            found.prints[name] = prints
        elif (folder / EXPORT).is_file():  # which goes on without them
            found.unknown.append(name)
        elif not is_run_folder(folder):
            continue
        elif hashes := _read_older(folder):
            found.older[name] = hashes
        else:
            found.unknown.append(name)
    if (gone := find_gone_origin(path)) is not None:
        found.unknown.append(redact_path(gone))
    return found


def _read_older(folder: Path) -> set[str]:
    splits = json.loads((folder / MANIFEST).read_text(encoding="utf-8"))["data"].get("splits", {})
    hashes = splits.get("train", {}).get("row_hashes", "")
    return {hashes[start : start + HASH_DIGITS] for start in range(0, len(hashes), HASH_DIGITS)}


class SeenRowCounter:
    """Counts rows that a model has been trained on, over as many data sets as are given to it."""

    def __init__(self, records: TrainingRecords) -> None:
        self.records = records
        self._rows = self._copies = self._shares = 0
        self._runs: list[str] = []
        self._places: list[Place] = []

    def add(self, rows: Dataset, locate: Callable[[int], Place], hashes: Hashes | None = None) -> None:
        """Look for `rows` in the records; `hashes`, (rows,), are those of the whole rows, where they are known."""
        copies, shares = np.zeros((2, len(rows)), np.bool_)
        for name, prints in self.records.prints.items():
            found = find_seen_rows(rows, prints)
            self._note(name, found.copies | found.shares_ngram)
            copies, shares = copies | found.copies, shares | found.shares_ngram
        for name, known in self.records.older.items():
            same = np.array([hashes is not None and f"{value:016x}" in known for value in _each(hashes, len(rows))])
            self._note(name, same)
            copies = copies | same
        self._rows += len(rows)
        self._copies += int(copies.sum())
        self._shares += int((shares & ~copies).sum())
        # Copies first, as rows that share words may be new for all that.
        order = [*np.flatnonzero(copies), *np.flatnonzero(shares & ~copies)]
        self._places += [locate(int(row)) for row in order[: MAX_PLACES - len(self._places)]]

    def _note(self, name: str, seen: Flags) -> None:
        if seen.any() and name not in self._runs:
            self._runs.append(name)

    def summarize(self) -> dict[str, Any]:
        """Return the counts, the runs, the first rows by file and line, and `words`; {} where nothing is recorded."""
        records, found = self.records, {}
        if records.prints or records.older:
            found = {"rows": self._rows, "copies": self._copies, "shares_13_words": self._shares, "runs": self._runs}
            found["places"] = [f"{redact_path(path)}:{line}" for path, line in self._places]
        if records.unknown:
            found["unknown"] = records.unknown
        return found | {"words": [*self._describe()]} if found else {}

    def _describe(self) -> list[str]:
        said, runs = [], ", ".join(self._runs)
        near = f"{self._shares:,} of {self._rows:,} rows share 13 words in a row with them"
        if self._copies:
            more = f", and {self._shares:,} more share 13 words in a row with them" if self._shares else ""
            said = [f"{self._copies:,} of {self._rows:,} rows were in the training rows of {runs}{more}"]
        elif self._shares:
            said = [near.replace("with them", f"with the training rows of {runs}")]
        if said:
            said = [f"{said[0]}: the figures are not of new rows"]
        if self.records.unknown:
            kept = ", ".join(self.records.unknown)
            said.append(f"whether rows were in the training rows of {kept} is not known: no record of them is there")
        return said


def log_seen_rows(found: dict[str, Any]) -> None:
    """Log what `SeenRowCounter.summarize` has found, with the first rows by file and line."""
    words, places = found.get("words", []), ", ".join(found.get("places", []))
    if places:
        more = ", ..." if found["copies"] + found["shares_13_words"] > len(found["places"]) else ""
        logger.warning("%s (%s%s)", words[0], places, more, extra={"code": "HF360"})
    for said in words[1 if places else 0 :]:
        logger.warning("%s", said, extra={"code": "HF361"})


def _each(hashes: Hashes | None, rows: int) -> list[int]:
    return [0] * rows if hashes is None else [int(value) for value in hashes]
