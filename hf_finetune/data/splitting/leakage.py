"""Leakage between splits: same file, same rows, shared groups, duplicates."""

from __future__ import annotations

import logging
import os
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
from hf_finetune.data.splitting.assignment import Hashes, Rows
from hf_finetune.data.splitting.batches import read_values
from hf_finetune.data.splitting.chosen_rows import Choice, Selection, iterate_hashes, read_hashes
from hf_finetune.data.splitting.overlap import Overlap
from hf_finetune.data.splitting.spill import find_repeats, hash_membership
from hf_finetune.data.splitting.train_prints import compare_splits, read_user_key
from hf_finetune.errors import MAX_PROBLEMS_SHOWN, DataError, Problem
from hf_finetune.metric_info import choose_verb, say_count

logger = logging.getLogger(__name__)

_MAX_DUPLICATES_SHOWN = 5
SHARED_WORDS = "13 words in a row with training rows (copies are not counted here)"
"""What rows share that are no copies of training rows, and may be near copies."""


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


def check_files_differ(files: Mapping[str, Sequence[DataFile]]) -> None:
    """Raise `DataError` where two roles read one file, by whatever names."""
    problems = [
        Problem(f"is also data.{first} ({one.shown})", _LEAKAGE_REMEDY, other.shown, key=f"data.{second}", code="HF210")
        for first, second in combinations(files, 2)
        for one in files[first]
        for other in files[second]
        if os.path.samefile(one.path, other.path)
    ]
    if problems:
        raise DataError(problems)


_LEAKAGE_REMEDY = (
    "name a file of rows that are not trained, or leave it out; data.validation_fraction and data.test_fraction hold "
    "rows of data.train out"
)


def check_rows_differ(tables: Mapping[str, Dataset], facts: Sequence[FileStats]) -> None:
    """Raise `DataError` where two roles have files of one content, or the same set of rows."""
    problems = [
        Problem(
            f"has the same content as data.{one.role} ({one.path})",
            _LEAKAGE_REMEDY,
            other.path,
            key=f"data.{other.role}",
            code="HF210",
        )
        for one, other in combinations(facts, 2)
        if one.role != other.role and one.sha256 == other.sha256
    ]
    problems += [
        Problem(
            f"has the same rows as data.{first} ({_name_first(facts, first)})",
            _LEAKAGE_REMEDY,
            _name_first(facts, second),
            key=f"data.{second}",
            code="HF210",
        )
        for first, second in combinations(tables, 2)
        if not problems and _have_same_rows(tables[first], tables[second])
    ]
    if problems:
        raise DataError(problems)


def _name_first(facts: Sequence[FileStats], role: str) -> str:
    """The first file of a role, with the number of the others."""
    paths = [each.path for each in facts if each.role == role]
    return paths[0] + (f" and {say_count(len(paths) - 1, 'more file')}" if len(paths) > 1 else "")


def _have_same_rows(one: Dataset, other: Dataset) -> bool:
    return len(one) == len(other) and _hash_rows(one) == _hash_rows(other)


def _hash_rows(table: Dataset) -> tuple[int, str]:
    return hash_membership(hashes for _, hashes in read_hashes(table))


def check_groups_disjoint(tables: Mapping[str, Dataset], group_by: str | None) -> None:
    """Raise `DataError` where the files of two roles share a value of `group_by`."""
    if group_by is None:
        return
    groups = {role: set(pc.unique(table.data.column(GROUP)).to_pylist()) for role, table in tables.items()}
    problems = [
        Problem(
            f"{say_count(both := len(groups[first] & groups[second]), 'group')} of `{group_by}` "
            f"{choose_verb(both, 'is', 'are')} in data.{first} and data.{second}",
            "move each group to one file",
            key="data.group_by",
            code="HF211",
        )
        for first, second in combinations(groups, 2)
        if groups[first] & groups[second]
    ]
    if problems:
        raise DataError(problems)


def drop_train_duplicates(
    tables: Mapping[str, Dataset],
    choice: Choice,
    files: Mapping[str, Sequence[DataFile]],
    num_proc: int | None = 1,
    *,
    refuse: bool = True,
) -> Choice:
    """Compare each split with the training rows: the splits without duplicates of them, and the counts of these.

    Duplicates of training rows are dropped from a split that was drawn from the same files. Raises `DataError` naming
    each one, by line, in a file of its own; without `refuse` they stay there.
    """
    kept, facts, problems, total = dict(choice.splits), dict[str, Any](), list[Problem](), 0
    for name, overlap in _compute_overlaps(tables, choice, num_proc).items():
        role, numbers = choice.splits[name]
        copies = overlap.copy_of >= 0
        if role == "train":
            kept[name] = (role, numbers[~copies])
        elif refuse:
            total += int(copies.sum())
            problems += _build_duplicate_problems(name, overlap, tables, choice, files)
        sharing = overlap.shares_ngram & ~copies
        counts = {"copies": int(copies.sum()), "shares_13_words": int(sharing.sum())}
        first = numbers[sharing][:_MAX_DUPLICATES_SHOWN].tolist()
        facts[name] = {"counts": counts, "rows": len(numbers), "shared": int(sharing.sum()), "sharing": first}
    if problems:
        log_overlap(facts, tables, choice.splits, files)
        raise DataError(problems, total=total)
    return Choice(kept, choice.trained, {"overlap": facts})


def count_train_duplicates(tables: Mapping[str, Dataset], choice: Choice, num_proc: int | None = 1) -> Choice:
    """Count the labelled rows of each split whose text a training row has too, and find the first.

    They stay in the split, as short texts do repeat: scores on them say little.
    """
    facts = {}
    for name, overlap in _compute_overlaps(tables, choice, num_proc).items():
        role, numbers = choice.splits[name]
        copies = np.flatnonzero(overlap.copy_of >= 0)
        copied = choice.trained[overlap.copy_of[copies]]
        labels, trained = _read_labels(tables[role], numbers[copies]), _read_labels(tables["train"], copied)
        others = sum(label != other for label, other in zip(labels, trained, strict=True))
        sharing = overlap.shares_ngram & (overlap.copy_of < 0)
        shared = int(sharing.sum())
        first = np.stack([numbers[copies], copied], axis=1)[:_MAX_DUPLICATES_SHOWN].tolist()
        counts = {"copies": len(copies), "other_label": others, "shares_13_words": shared}
        facts[name] = {"counts": counts, "rows": len(numbers), "shared": shared, "first": first}
        facts[name]["sharing"] = numbers[sharing][:_MAX_DUPLICATES_SHOWN].tolist()
    return Choice(choice.splits, choice.trained, {"overlap": facts})


def log_overlap(
    facts: Mapping[str, Mapping[str, Any]],
    tables: Mapping[str, Dataset],
    chosen: Selection,
    files: Mapping[str, Sequence[DataFile]],
) -> None:
    """Log what the splits have in common with the training rows, as the two functions above found it."""
    for name, found in facts.items():
        counts, rows = found["counts"], found["rows"]
        if counts["copies"] and "first" not in found:
            if chosen[name][0] != "train":  # a file of its own: each of them is a problem that is said
                continue
            one, several = "is a copy of a training row and is left out", "are copies of training rows and are left out"
            left_out = name, counts["copies"], say_count(rows, "row")
            logger.warning(
                "%s: %d of %s %s", *left_out, choose_verb(counts["copies"], one, several), extra={"code": "HF212"}
            )
        elif counts["copies"]:
            role = chosen[name][0]
            places = [
                (_locate_row(tables[role], files[role], row), _locate_row(tables["train"], files["train"], copied))
                for row, copied in found["first"]
            ]
            _log_duplicates(name, counts, places)
        if found["shared"]:
            shared = found["shared"], say_count(rows, "row"), choose_verb(found["shared"], "shares", "share")
            role = chosen[name][0]
            # What an earlier version has kept in the cache has no places.
            sharing = [_locate_row(tables[role], files[role], row) for row in found.get("sharing", ())]
            listed = f": {', '.join(f'{path}:{line}' for path, line in sharing)}" if sharing else ""
            more = ", ..." if 0 < len(sharing) < found["shared"] else ""
            logger.info("%s: %d of %s %s %s%s%s", *(name, *shared), SHARED_WORDS, listed, more, extra={"code": "HF204"})


def count_repeated_rows(table: Dataset, trained: Rows) -> dict[str, Any]:
    """Count the rows `trained`, (rows,) and ascending, the copies of earlier ones, and the first of these."""
    copies, first = find_repeats(iterate_hashes(table, trained), _MAX_DUPLICATES_SHOWN)
    return {"rows": len(trained), "copies": copies, "first": first}


def log_repeated_rows(repeated: Mapping[str, Any], table: Dataset, files: Sequence[DataFile]) -> None:
    """Log what `count_repeated_rows` has found."""
    if not repeated["copies"]:
        return
    shown = [(_locate_row(table, files, row), _locate_row(table, files, copied)) for row, copied in repeated["first"]]
    listed = ", ".join(f"{path}:{line} (as {other}:{its_line})" for (path, line), (other, its_line) in shown)
    more = " ..." if repeated["copies"] > len(shown) else ""
    counts = f"{repeated['copies']:,}", f"{repeated['rows']:,}", choose_verb(repeated["copies"], "is", "are")
    logger.info("train: %s of %s rows %s there already: %s%s", *counts, listed, more)


def _read_labels(table: Dataset, rows: Rows) -> list[Any]:
    """Return the labels of `rows` (rows,); the order within a list of labels does not count."""
    distinct, places = np.unique(rows, return_inverse=True)
    labels = [sorted(each) if isinstance(each, list) else each for each in read_values(table, "label", distinct)]
    return [labels[place] for place in places]


def _log_duplicates(
    split: str, facts: Mapping[str, int], first: Sequence[tuple[tuple[str, int], tuple[str, int]]]
) -> None:
    shown = ", ".join(f"{path}:{line} (as {other}:{its_line})" for (path, line), (other, its_line) in first)
    logger.warning(
        "%s: %s %s the text of a training row, %d of them with another label: %s%s",
        *(split, say_count(facts["copies"], "row"), choose_verb(facts["copies"], "has", "have")),
        *(facts["other_label"], shown, " ..." if facts["copies"] > len(first) else ""),
        extra={"code": "HF202"},
    )


def _compute_overlaps(tables: Mapping[str, Dataset], choice: Choice, num_proc: int | None) -> dict[str, Overlap]:
    """Return the overlap of every split but train with the training rows, each of these once."""
    others = {name: (tables[role], numbers) for name, (role, numbers) in choice.splits.items() if name != "train"}
    return compare_splits((tables["train"], choice.trained), others, read_user_key(), num_proc)


def _build_duplicate_problems(
    split: str,
    overlap: Overlap,
    tables: Mapping[str, Dataset],
    choice: Choice,
    files: Mapping[str, Sequence[DataFile]],
) -> list[Problem]:
    problems = []
    role, numbers = choice.splits[split]
    for row in np.flatnonzero(overlap.copy_of >= 0)[:MAX_PROBLEMS_SHOWN]:
        path, line = _locate_row(tables[role], files[role], int(numbers[row]))
        copied = int(choice.trained[overlap.copy_of[row]])
        first, first_line = _locate_row(tables["train"], files["train"], copied)
        what = f"is also a training row ({first}:{first_line})"
        problems.append(Problem(what, "take it out of one of the files", path, line, key=f"data.{split}", code="HF202"))
    return problems


def check_sizes(chosen: Selection) -> None:
    """Raise `DataError` where a split is left without a row; warn where one is larger than train."""
    train = len(chosen["train"][1])
    for name, (_, numbers) in chosen.items():
        if not len(numbers):
            what = f"every row that was drawn for {name} is a copy of a training row"
            raise DataError(
                Problem(what, "take repeated rows out of the file", key=f"data.{name}_fraction", code="HF213")
            )
        if len(numbers) > train:
            logger.warning(
                "%s has more rows than train: %d and %d; are they swapped?",
                name,
                len(numbers),
                train,
                extra={"code": "HF214"},
            )


def _locate_row(table: Dataset, files: Sequence[DataFile], number: int) -> tuple[str, int]:
    """Return the path, as the user wrote it, and the line of row `number` of a table."""
    file, line = (table.data.column(name)[number].as_py() for name in (FILE, LINE))
    return files[file].shown, line


def locate_rows(table: Dataset, files: Sequence[DataFile], numbers: Rows) -> RowLocations:
    """Return the file and line of the rows `numbers` (rows,) of a table."""
    file, line = (np.asarray(table.data.column(name).to_numpy())[numbers] for name in (FILE, LINE))
    return RowLocations(tuple(each.shown for each in files), file, line)
