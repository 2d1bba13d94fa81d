"""The labels of a run, frozen from its training rows: names, order, and the encoding of each row's label."""

from __future__ import annotations

import logging
from collections.abc import Mapping

import numpy as np
from datasets import Dataset, List

from hf_finetune.config.reading.document import format_value
from hf_finetune.config.sections import DataSection
from hf_finetune.data.labels.checks import (
    LabelRows,
    Occurrences,
    check_classes,
    check_numbers,
    find_distinct_rows,
    read_numbers,
)
from hf_finetune.data.splitting.splits import Splits
from hf_finetune.errors import DataError, Problem
from hf_finetune.label_set import REGRESSION_NAME, Labels, LabelsKind, iterate_labels
from hf_finetune.metric_info import choose_verb, say_count

logger = logging.getLogger(__name__)


MAX_COUNTS_LOGGED = 20


def freeze_labels(splits: Splits, data: DataSection) -> Labels:
    """Determine the labels of a run from its training rows alone, sorted: numbers by value, text by code point.

    Raises DataError with every problem of the labels of any split; see `check_classes`.
    """
    if "label" not in splits.rows["train"].column_names:
        raise DataError(Problem(f"rows of format {splits.format} have no label", key="data.format", code="HF022"))
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
    found: Occurrences = {}
    rows = find_distinct_rows(splits, name)
    for start, labels in iterate_labels(splits.rows[name]["label"]):
        here = rows[slice(*np.searchsorted(rows, [start, start + len(labels)]))]
        for row in here.tolist():
            of_row = labels[row - start]
            for label in of_row if isinstance(of_row, list) else [of_row]:
                found.setdefault(label, LabelRows()).add(row)
    return found


def _log_classes(splits: Splits, labels: Labels, found: Mapping[str, Occurrences]) -> None:
    counts = [f"{format_value(value)} {found['train'][value].count:,}" for value in labels.values[:MAX_COUNTS_LOGGED]]
    counts += ["..."] if len(labels.values) > MAX_COUNTS_LOGGED else []
    several = " (a row may have several)" if labels.kind == "multi" else ""
    named = say_count(len(labels.names), "label"), several, choose_verb(len(labels.names), "its", "their")
    logger.info("%s%s, with %s training rows: %s", *named, ", ".join(counts))
    numbered = [value for value in labels.values if isinstance(value, int)]
    if numbered and numbered != list(range(len(numbered))):
        names = ", ".join(labels.names[:MAX_COUNTS_LOGGED])
        classes = choose_verb(len(numbered), "is a class of this name", f"are {len(numbered)} classes of these names")
        logger.info("the labels are not 0, 1, 2 ...: %s %s", names, classes)
    for name in splits.rows:
        missing = [format_value(value) for value in labels.values if value not in found[name]]
        if missing:
            shortened = ", ".join(missing[:MAX_COUNTS_LOGGED]) + (", ..." if len(missing) > MAX_COUNTS_LOGGED else "")
            logger.warning(
                "%s has no row of %d of the labels, which it cannot score: %s",
                name,
                len(missing),
                shortened,
                extra={"code": "HF311"},
            )


def _log_numbers(splits: Splits) -> None:
    train: Dataset = splits.rows["train"]
    numbers = read_numbers(train)
    shape = (say_count(len(numbers), "training row"), numbers.min(), numbers.max(), numbers.mean())
    logger.info("the labels of %s are numbers from %g to %g, %g on average", *shape)
