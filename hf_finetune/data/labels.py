"""The labels of a run, frozen from its training rows: names, order, and the encoding of each row's label."""

from __future__ import annotations

import logging
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
import numpy.typing as npt
from datasets import Dataset, List

from hf_finetune.config.document import shown
from hf_finetune.config.sections import DataSection
from hf_finetune.data.label_checks import Occurrences, check_classes, check_numbers, distinct_rows
from hf_finetune.data.splits import Splits
from hf_finetune.errors import DataError, Problem

logger = logging.getLogger(__name__)

REGRESSION_NAME = "value"
MOST_COUNTS_LOGGED = 20

LabelsKind = Literal["single", "multi", "number"]
ProblemType = Literal["single_label_classification", "multi_label_classification", "regression"]

_PROBLEM_TYPES: dict[LabelsKind, ProblemType] = {
    "single": "single_label_classification",
    "multi": "multi_label_classification",
    "number": "regression",
}


@dataclass(frozen=True)
class Labels:
    """The classes of a run in the order of the model's logits; for regression a single target, named "value"."""

    names: tuple[str, ...]
    kind: LabelsKind
    values: tuple[str | int, ...] = ()
    """The labels as the rows have them; empty for regression."""

    @property
    def id2label(self) -> dict[int, str]:
        return dict(enumerate(self.names))

    @property
    def label2id(self) -> dict[str, int]:
        return {name: number for number, name in enumerate(self.names)}

    @property
    def problem_type(self) -> ProblemType:
        """The `problem_type` of transformers, which it would else guess from the dtype of the labels."""
        return _PROBLEM_TYPES[self.kind]

    def encode(self, column: Sequence[Any]) -> npt.NDArray[Any]:
        """Encode the label column of a split, (rows,).

        single: int64 (rows,); multi: 0.0 and 1.0 as float32 (rows, labels); number: float32 (rows,).
        Raises DataError for a label that is none of `values`.
        """
        rows = column[:]  # a `datasets` column is read at once by [:], but row by row when iterated
        if self.kind == "number":
            return np.asarray(rows, dtype=np.float32)
        # Strings and integers, never both: the decoder rejects a label of another type than the first.
        number_of = {value: number for number, value in enumerate(self.values)}
        try:
            if self.kind == "single":
                return np.fromiter((number_of[label] for label in rows), dtype=np.int64, count=len(rows))
            encoded = np.zeros((len(rows), len(self.names)), dtype=np.float32)
            for row, labels in enumerate(rows):
                encoded[row, [number_of[label] for label in labels]] = 1.0
        except KeyError as unknown:
            what = f"{shown(unknown.args[0])} is none of the labels"
            raise DataError(Problem(what, f"they are {', '.join(self.names)}")) from None
        return encoded


def freeze_labels(splits: Splits, data: DataSection) -> Labels:
    """Determine the labels of a run from its training rows alone, sorted: numbers by value, text by code point.

    Raises DataError with every problem of the labels of any split; see `check_classes`.
    """
    if "label" not in splits.rows["train"].column_names:
        raise DataError(Problem(f"rows of format {splits.format} have no label", key="data.format"))
    if data.task == "regression":
        check_numbers(splits)
        _log_numbers(splits)
        return Labels((REGRESSION_NAME,), "number")
    kind: LabelsKind = "multi" if isinstance(splits.rows["train"].features["label"], List) else "single"
    found = {name: _find_occurrences(splits, name) for name in splits.rows}
    labels = Labels(tuple(map(str, sorted(found["train"]))), kind, tuple(sorted(found["train"])))
    check_classes(splits, data, found, labels.names)
    _log_classes(splits, labels, found)
    return labels


def _find_occurrences(splits: Splits, name: str) -> Occurrences:
    """Find the rows of each label in one split, without the repeats of a weight."""
    column = splits.rows[name]["label"][:]
    found: Occurrences = {}
    for row in distinct_rows(splits, name):
        labels = column[row] if isinstance(column[row], list) else [column[row]]
        for label in labels:
            found.setdefault(label, []).append(row)
    return found


def _log_classes(splits: Splits, labels: Labels, found: Mapping[str, Occurrences]) -> None:
    counts = [f"{shown(value)} {len(found['train'][value]):,}" for value in labels.values[:MOST_COUNTS_LOGGED]]
    counts += ["..."] if len(labels.values) > MOST_COUNTS_LOGGED else []
    several = " (a row may have several)" if labels.kind == "multi" else ""
    logger.info("%d labels%s, with their training rows: %s", len(labels.names), several, ", ".join(counts))
    numbered = [value for value in labels.values if isinstance(value, int)]
    if numbered and numbered != list(range(len(numbered))):
        names = ", ".join(labels.names[:MOST_COUNTS_LOGGED])
        logger.info("the labels are not 0, 1, 2 ...: %s are %d classes of these names", names, len(numbered))
    for name in splits.rows:
        missing = [shown(value) for value in labels.values if value not in found[name]]
        if missing:
            shortened = ", ".join(missing[:MOST_COUNTS_LOGGED]) + (", ..." if len(missing) > MOST_COUNTS_LOGGED else "")
            logger.warning(
                "%s has no row of %d of the labels, which it cannot score: %s", name, len(missing), shortened
            )


def _log_numbers(splits: Splits) -> None:
    train: Dataset = splits.rows["train"]
    numbers = np.asarray(train["label"][:])
    shape = (len(numbers), numbers.min(), numbers.max(), numbers.mean())
    logger.info("the labels of %d training rows are numbers from %g to %g, %g on average", *shape)
