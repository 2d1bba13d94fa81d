"""Checks of the labels of a run across its rows: known from training, distinct, and more than one row of each."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from itertools import chain

import numpy as np
import numpy.typing as npt
from datasets import Dataset

from hf_finetune.config.reading.document import format_value
from hf_finetune.config.sections import DataSection
from hf_finetune.data.reading.row_checks.labels import find_similar_labels, normalize_label
from hf_finetune.data.splitting.assignment import Rows
from hf_finetune.data.splitting.splits import Splits
from hf_finetune.errors import MAX_PROBLEMS_SHOWN, DataError, Problem, suggest
from hf_finetune.label_set import LABEL_MAP, iterate_labels

Label = str | int


@dataclass(slots=True)
class LabelRows:
    """The rows of a split that have one label."""

    count: int = 0
    first: list[int] = field(default_factory=list)
    """Row numbers of the first `MAX_PROBLEMS_SHOWN` of them."""

    def add(self, row: int) -> None:
        """Count a row."""
        self.count += 1
        if len(self.first) < MAX_PROBLEMS_SHOWN:
            self.first.append(row)


Occurrences = dict[Label, LabelRows]
"""The rows of a split by label."""

MAX_LABELS_NAMED = 20


def find_distinct_rows(splits: Splits, name: str) -> Rows:
    """Return the row numbers of a split, (rows,), ascending, without the repeats of a weight."""
    places = splits.places[name]
    if name == "train" and splits.trained is not None and len(splits.trained[1]) == len(places.line):
        return np.arange(len(places.line))  # each row once, as nearly always: 8 bytes a row instead of 50
    # File and line as one number: np.unique(axis=0) would sort structs, which is far slower.
    here = places.file.astype(np.int64) << 32 | places.line
    return np.sort(np.unique(here, return_index=True)[1])


def check_classes(splits: Splits, data: DataSection, found: Mapping[str, Occurrences], names: Sequence[str]) -> None:
    """Raise DataError with every problem of the labels, by file and line where it has one.

    These are: a single label; labels that differ only by case, white space or the notation of a number; a label of a
    single row; a label that only an evaluation split has; weights (`data.balance`) for other labels; keys of
    `data.labels` that no row has.
    """
    problems = [
        *_check_label_count(found["train"]),
        *_find_similar(splits, found["train"]),
        *_check_weights(data, names),
        *_check_label_map(splits),
    ]
    single, seen_once = _find_single_rows(splits, data, found)
    unknown, total = _find_unknown(splits, data, found, seen_once)
    problems += single + unknown
    if problems:
        raise DataError(problems[:MAX_PROBLEMS_SHOWN], total=len(problems) + total - len(unknown))


def check_numbers(splits: Splits) -> None:
    """Raise DataError for numbers that float32 cannot hold, and for training labels that are all the same."""
    problems: list[Problem] = []
    total = 0
    for name, rows in splits.rows.items():
        too_large = np.flatnonzero(np.abs(read_numbers(rows)) > np.finfo(np.float32).max)
        total += len(too_large)
        for row in too_large[: MAX_PROBLEMS_SHOWN - len(problems)]:
            path, line = splits.locate(name, int(row))
            problems.append(
                Problem("the label is too large for float32", "scale the labels down", path, line, code="HF310")
            )
    train = read_numbers(splits.rows["train"])
    if not problems and train.min() == train.max():
        what = "every training row has the same label, so there is nothing to learn"
        problems, total = [Problem(what, "add rows with other numbers", key="data.train", code="HF306")], 1
    if problems:
        raise DataError(problems, total=total)


def read_numbers(rows: Dataset) -> npt.NDArray[np.float64]:
    """Read labels that are numbers: (rows,)."""
    labels = chain.from_iterable(some for _, some in iterate_labels(rows["label"]))
    return np.fromiter(labels, np.float64, len(rows))  # the format "numpy" of `datasets` makes float32 of them


def _check_label_count(train: Occurrences) -> list[Problem]:
    if len(train) > 1:
        return []
    what = (
        f"the training rows have one label only, {format_value(next(iter(train)))}"
        if train
        else "no training row has one"
    )
    return [Problem(what, "there must be two labels at least: add rows of another", key="data.train", code="HF306")]


def _find_similar(splits: Splits, train: Occurrences) -> list[Problem]:
    places = {
        label: (rows.count, *splits.locate("train", rows.first[0]))
        for label, rows in train.items()
        if isinstance(label, str)
    }
    return find_similar_labels(places)


def _find_single_rows(
    splits: Splits, data: DataSection, found: Mapping[str, Occurrences]
) -> tuple[list[Problem], set[Label]]:
    """Find labels of a single row in all splits together, which can be trained or measured, but not both.

    Without those that other checks report: probable misspellings, and labels of evaluation files.
    """
    rows = Counter({label: here.count for label, here in found["train"].items()})
    for name in found.keys() - {"train"}:
        rows.update({label: here.count for label, here in found[name].items()})
    folded = Counter(normalize_label(label) for label in found["train"] if isinstance(label, str))
    once: set[Label] = set()
    problems = []
    for name in (name for name in found if name == "train" or getattr(data, name) is None):
        for label in sorted((label for label in found[name] if rows[label] == 1), key=str):
            # "spam" alone beside "Spam" in train is a misspelling, which `find_similar_labels` reports.
            if folded[normalize_label(str(label))] > (name == "train"):
                continue
            once.add(label)
            path, line = splits.locate(name, found[name][label].first[0])
            what = f"the label {format_value(label)} has a single row in all splits together"
            problems.append(
                Problem(
                    what, "add rows of it, merge it with another, or take it out", path, line, "label", code="HF307"
                )
            )
    return problems, once


def _find_unknown(
    splits: Splits, data: DataSection, found: Mapping[str, Occurrences], seen_once: set[Label]
) -> tuple[list[Problem], int]:
    """Find evaluation rows whose label no training row has: problems of the first of them, and their number."""
    problems: list[Problem] = []
    total = 0
    for name in (name for name in found if name != "train"):
        for label in sorted(found[name].keys() - found["train"].keys() - seen_once, key=str):
            rows = found[name][label]
            total += rows.count
            remedy = _suggest_remedy(label, list(found["train"]), data, drawn=getattr(data, name) is None)
            what = f"the label {format_value(label)} is in {name}, but no training row has it"
            for row in rows.first[: MAX_PROBLEMS_SHOWN - len(problems)]:
                path, line = splits.locate(name, row)
                problems.append(Problem(what, remedy, path, line, "label", code="HF308"))
    return sorted(problems, key=lambda problem: (problem.path or "", problem.line or 0)), total


def _suggest_remedy(label: Label, known: Sequence[Label], data: DataSection, *, drawn: bool) -> str:
    """Suggest the label that was meant, or how to get training rows of this one; `drawn`: the split is a fraction."""
    names = [name for name in known if isinstance(name, str)] if isinstance(label, str) else []
    same = [name for name in names if normalize_label(name) == normalize_label(str(label))]
    if same:
        nearest = min(same, key=lambda name: name.strip() != str(label).strip())
        return f"did you mean {format_value(nearest)}? write it in one way"
    if drawn and data.stratify_by is None:
        return "set data.stratify_by to the field of the label, so that every split has each"
    meant = suggest(str(label), names, show=format_value)
    return f"{meant and f'{meant} if not, '}add training rows of it, or take the row out"


def _check_weights(data: DataSection, names: Sequence[str]) -> list[Problem]:
    """Check that weights by name (`data.balance`) are for every label, and for no other."""
    if not isinstance(data.balance, dict):
        return []
    given, problems = data.balance.keys(), []
    listed = ", ".join(names[:MAX_LABELS_NAMED]) + (", ..." if len(names) > MAX_LABELS_NAMED else "")
    for name in sorted(given - set(names)):
        remedy = suggest(name, names, f"the labels are {listed}")
        problems.append(
            Problem(f"{format_value(name)} is no label of the training rows", remedy, key="data.balance", code="HF309")
        )
    missing = [format_value(name) for name in names if name not in given]
    if missing:
        what = f"has no weight for {', '.join(missing[:MAX_LABELS_NAMED])}"
        problems.append(
            Problem(what, f"give each label one; the labels are {listed}", key="data.balance", code="HF309")
        )
    return problems


def _check_label_map(splits: Splits) -> list[Problem]:
    """Check that rows have each key of `data.labels`: one that none has is misspelled, or of other rows."""
    if not splits.unused_labels:
        return []
    named = ", ".join(map(format_value, splits.unused_labels[:MAX_LABELS_NAMED]))
    return [Problem(f"no row has the label {named}", "correct it, or leave it out", key=LABEL_MAP, code="HF305")]
