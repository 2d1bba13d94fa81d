"""Leakage between splits: same file, same rows, shared groups, duplicates."""

from __future__ import annotations

import hashlib
import logging
import os
import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import combinations
from typing import Any

import numpy as np
import numpy.typing as npt
import pyarrow.compute as pc
from datasets import Dataset

from hf_finetune.data.reading.arrow import FILE, GROUP, LINE, ROW_HASH, FileStats
from hf_finetune.data.reading.sources import DataFile
from hf_finetune.data.splitting.assignment import Hashes, Rows, sort_distinct
from hf_finetune.data.splitting.batches import read_values
from hf_finetune.data.splitting.overlap import Overlap
from hf_finetune.data.splitting.train_prints import compare_splits, read_user_key
from hf_finetune.errors import MAX_PROBLEMS_SHOWN, DataError, Problem

logger = logging.getLogger(__name__)

_MAX_DUPLICATES_SHOWN = 5

Selection = dict[str, tuple[str, Rows]]
"""For each split the role whose files it comes from, and its row numbers there: (rows,)."""


@dataclass(frozen=True)
class RowLocations:
    """The file and line of each row of a split: `file` holds indices into `files`, both arrays are (rows,)."""

    files: tuple[str, ...]
    file: npt.NDArray[np.int32]
    line: npt.NDArray[np.int32]

    def locate(self, row: int) -> tuple[str, int]:
        """Return the path, as the user wrote it, and the line of a row."""
        return self.files[self.file[row]], int(self.line[row])


def get_row_hashes(table: Dataset) -> Hashes:
    """Return the content hash of each row: uint64 (rows,)."""
    return np.asarray(table.data.column(ROW_HASH).to_numpy())


def hash_membership(hashes: Hashes) -> str:
    """Hash the set of rows of a split, whatever their order; `hashes`: (rows,)."""
    # Big-endian, so that the digest is the same on every machine.
    ordered = np.sort(hashes)
    if sys.byteorder == "little":
        ordered.byteswap(inplace=True)
    return hashlib.sha256(ordered.data).hexdigest()


def check_files_differ(files: Mapping[str, Sequence[DataFile]]) -> None:
    """Raise `DataError` where two roles read one file, by whatever names."""
    problems = [
        Problem(f"is also data.{first} ({one.shown})", _LEAKAGE_REMEDY, other.shown, key=f"data.{second}")
        for first, second in combinations(files, 2)
        for one in files[first]
        for other in files[second]
        if os.path.samefile(one.path, other.path)
    ]
    if problems:
        raise DataError(problems)


_LEAKAGE_REMEDY = "evaluate on rows that are not trained on: another file, or data.validation_fraction"


def check_rows_differ(tables: Mapping[str, Dataset], facts: Sequence[FileStats]) -> None:
    """Raise `DataError` where two roles have files of one content, or the same set of rows."""
    problems = [
        Problem(
            f"has the same content as data.{one.role} ({one.path})",
            _LEAKAGE_REMEDY,
            other.path,
            key=f"data.{other.role}",
        )
        for one, other in combinations(facts, 2)
        if one.role != other.role and one.sha256 == other.sha256
    ]
    problems += [
        Problem(f"has the same rows as data.{first}", _LEAKAGE_REMEDY, key=f"data.{second}")
        for first, second in combinations(tables, 2)
        if not problems and _have_same_rows(tables[first], tables[second])
    ]
    if problems:
        raise DataError(problems)


def _have_same_rows(one: Dataset, other: Dataset) -> bool:
    return len(one) == len(other) and hash_membership(get_row_hashes(one)) == hash_membership(get_row_hashes(other))


def check_groups_disjoint(tables: Mapping[str, Dataset], group_by: str | None) -> None:
    """Raise `DataError` where the files of two roles share a value of `group_by`."""
    if group_by is None:
        return
    groups = {role: set(pc.unique(table.data.column(GROUP)).to_pylist()) for role, table in tables.items()}
    problems = [
        Problem(
            f"{len(groups[first] & groups[second]):,} groups of `{group_by}` are in data.{first} and data.{second}",
            "move each group to one file",
            key="data.group_by",
        )
        for first, second in combinations(groups, 2)
        if groups[first] & groups[second]
    ]
    if problems:
        raise DataError(problems)


def drop_train_duplicates(
    tables: Mapping[str, Dataset], chosen: Selection, files: Mapping[str, Sequence[DataFile]]
) -> tuple[Selection, dict[str, dict[str, int]]]:
    """Compare each split with the training rows: returns the splits without duplicates, and their counts.

    Duplicates of training rows are dropped from a split that was drawn from the same files. Raises `DataError` naming
    each one, by line, in a file of its own.
    """
    train, found = _compute_overlaps(tables, chosen)
    kept, facts, problems, total = dict(chosen), {}, [], 0
    places = locate_rows(tables["train"], files["train"], train)
    for name, overlap in found.items():
        role, numbers = chosen[name]
        copies = overlap.copy_of >= 0
        if role == "train":
            kept[name] = (role, numbers[~copies])
        else:
            total += int(copies.sum())
            problems += _build_duplicate_problems(
                name, overlap, locate_rows(tables[role], files[role], numbers), places
            )
        facts[name] = {"copies": int(copies.sum()), "shares_13_words": int(overlap.shares_ngram[~copies].sum())}
        if facts[name]["copies"]:
            left_out = (name, facts[name]["copies"], len(numbers))
            logger.warning("%s: %d of %d rows are copies of training rows and are left out", *left_out)
        _log_shared_ngrams(name, len(numbers), facts[name]["shares_13_words"])
    if problems:
        raise DataError(problems, total=total)
    return kept, facts


def count_train_duplicates(
    tables: Mapping[str, Dataset], chosen: Selection, files: Mapping[str, Sequence[DataFile]]
) -> dict[str, dict[str, int]]:
    """Count the labelled rows of each split whose text a training row has too, and log the first.

    They stay in the split, as short texts do repeat: scores on them say little.
    """
    train, found = _compute_overlaps(tables, chosen)
    places = locate_rows(tables["train"], files["train"], train)
    facts = {}
    for name, overlap in found.items():
        role, numbers = chosen[name]
        copies = np.flatnonzero(overlap.copy_of >= 0)
        labels = _read_labels(tables[role], numbers[copies])
        trained = _read_labels(tables["train"], train[overlap.copy_of[copies]])
        others = sum(label != other for label, other in zip(labels, trained, strict=True))
        shared = int((overlap.shares_ngram & (overlap.copy_of < 0)).sum())
        facts[name] = {"copies": len(copies), "other_label": others, "shares_13_words": shared}
        own = locate_rows(tables[role], files[role], numbers)
        _log_duplicates(
            name,
            facts[name],
            [(own.locate(row), places.locate(overlap.copy_of[row])) for row in copies[:_MAX_DUPLICATES_SHOWN]],
        )
        _log_shared_ngrams(name, len(numbers), shared)
    return facts


def log_repeated_rows(table: Dataset, numbers: Rows, files: Sequence[DataFile]) -> None:
    """Log how many of the training rows `numbers` (rows,) are copies of an earlier one, and the first of them."""
    rows = sort_distinct(numbers)  # weights repeat rows
    ordered = get_row_hashes(table)[rows]
    order = np.argsort(ordered, kind="stable")
    ordered = ordered[order]
    # Hashes [7, 5, 7, 7]: in the order [1, 0, 2, 3] they are [5, 7, 7, 7], so that rows 2 and 3 are copies of row 0.
    copies = np.flatnonzero(ordered[1:] == ordered[:-1]) + 1
    if not len(copies):
        return
    first_copies = copies[np.argsort(order[copies])[:_MAX_DUPLICATES_SHOWN]]
    firsts = order[np.searchsorted(ordered, ordered[first_copies])]
    places = locate_rows(table, files, rows)
    shown = [(places.locate(row), places.locate(first)) for row, first in zip(order[first_copies], firsts, strict=True)]
    listed = ", ".join(f"{path}:{line} (as {other}:{its_line})" for (path, line), (other, its_line) in shown)
    more = " ..." if len(copies) > len(shown) else ""
    logger.info("train: %s of %s rows are there already: %s%s", f"{len(copies):,}", f"{len(rows):,}", listed, more)


def _read_labels(table: Dataset, rows: Rows) -> list[Any]:
    """Return the labels of `rows` (rows,); the order within a list of labels does not count."""
    distinct, places = np.unique(rows, return_inverse=True)
    labels = [sorted(each) if isinstance(each, list) else each for each in read_values(table, "label", distinct)]
    return [labels[place] for place in places]


def _log_duplicates(
    split: str, facts: Mapping[str, int], first: Sequence[tuple[tuple[str, int], tuple[str, int]]]
) -> None:
    if facts["copies"]:
        shown = ", ".join(f"{path}:{line} (as {other}:{its_line})" for (path, line), (other, its_line) in first)
        logger.warning(
            "%s: %d rows have the text of a training row, %d of them with another label: %s%s",
            *(split, facts["copies"], facts["other_label"], shown, " ..." if facts["copies"] > len(first) else ""),
        )


def _compute_overlaps(tables: Mapping[str, Dataset], chosen: Selection) -> tuple[Rows, dict[str, Overlap]]:
    """Return the training rows, each once (rows,), and the overlap of every other split with them."""
    train = sort_distinct(chosen["train"][1])  # weights repeat rows
    others = {name: (tables[role], numbers) for name, (role, numbers) in chosen.items() if name != "train"}
    return train, compare_splits((tables["train"], train), others, read_user_key())


def _build_duplicate_problems(split: str, overlap: Overlap, places: RowLocations, train: RowLocations) -> list[Problem]:
    problems = []
    for row in np.flatnonzero(overlap.copy_of >= 0)[:MAX_PROBLEMS_SHOWN]:
        path, line = places.locate(int(row))
        first, first_line = train.locate(int(overlap.copy_of[row]))
        what = f"is also a training row ({first}:{first_line})"
        problems.append(Problem(what, "take it out of one of the files", path, line, key=f"data.{split}"))
    return problems


def _log_shared_ngrams(split: str, rows: int, shared: int) -> None:
    if shared:
        logger.info("%s: %d of %d rows share 13 words in a row with training rows", split, shared, rows)


def check_sizes(chosen: Selection) -> None:
    """Raise `DataError` where a split is left without a row; warn where one is larger than train."""
    train = len(chosen["train"][1])
    for name, (_, numbers) in chosen.items():
        if not len(numbers):
            what = f"every row that was drawn for {name} is a copy of a training row"
            raise DataError(Problem(what, "take repeated rows out of the file", key=f"data.{name}_fraction"))
        if len(numbers) > train:
            logger.warning("%s has more rows than train: %d and %d; are they swapped?", name, len(numbers), train)


def locate_rows(table: Dataset, files: Sequence[DataFile], numbers: Rows) -> RowLocations:
    """Return the file and line of the rows `numbers` (rows,) of a table."""
    file, line = (np.asarray(table.data.column(name).to_numpy())[numbers] for name in (FILE, LINE))
    return RowLocations(tuple(each.shown for each in files), file, line)
