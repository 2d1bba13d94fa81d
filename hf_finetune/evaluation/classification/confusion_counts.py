"""Scores of labels from counts, for any number of resamples or thresholds at once."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
import numpy.typing as npt

Array = npt.NDArray[np.float64]

ThresholdMetric = Literal[
    "accuracy", "balanced_accuracy", "f1_macro", "f1_micro", "f1_weighted", "matthews_correlation"
]


@dataclass(frozen=True, slots=True)
class ConfusionCounts:
    """How often labels were given, predicted and both: (labels, ...); the further axes are the caller's."""

    kind: Literal["single", "multi"]
    right: Array
    predicted: Array
    given: Array
    rows: int | Array
    """(...) where resamples have different numbers of them."""
    exact: Array
    """Rows with all labels right: (...)."""


def count_labels(
    kind: Literal["single", "multi"], chosen: npt.NDArray[np.int64], references: npt.NDArray[Any], labels: int
) -> ConfusionCounts:
    """The counts of one split: labels as `Decision.choose` gives them, and references in the same form."""
    chosen_each, given_each = chosen, references
    if kind == "single":
        chosen_each, given_each = (each[:, None] == np.arange(labels) for each in (chosen, references))
    right, predicted, given = (
        each.sum(axis=0).astype(np.float64) for each in (given_each * chosen_each, chosen_each, given_each)
    )
    exact = np.asarray((chosen_each == given_each).all(axis=1).sum(), dtype=np.float64)
    return ConfusionCounts(kind, right, predicted, given, len(chosen), exact)


def compute_score(name: str, counts: ConfusionCounts) -> Array:
    """One of `SCORES`: (...).

    As scikit-learn computes them: a share of nothing is 0, and labels that are neither given nor predicted are left
    out of a mean (kind "single" only).
    """
    return SCORES[name](counts)


def compute_scores(counts: ConfusionCounts) -> dict[str, Array]:
    return {name: score(counts) for name, score in SCORES.items()}


def _ratio(share: Array, whole: Array) -> Array:
    return np.divide(share, whole, out=np.zeros(np.broadcast(share, whole).shape), where=whole > 0)


def _mean(values: Array, counted: npt.NDArray[np.bool_]) -> Array:
    """Over the labels that count; NaN where none does."""
    number = counted.sum(axis=0)
    total = np.where(counted, values, 0.0).sum(axis=0)
    return np.asarray(np.divide(total, number, out=np.full(np.shape(total), np.nan), where=number > 0))


def _precision(counts: ConfusionCounts) -> Array:
    return _mean(_ratio(counts.right, counts.predicted), _counted(counts))


def _recall(counts: ConfusionCounts) -> Array:
    return _mean(_ratio(counts.right, counts.given), _counted(counts))


def _f1(counts: ConfusionCounts) -> Array:
    return _ratio(2 * counts.right, counts.predicted + counts.given)


def _f1_micro(counts: ConfusionCounts) -> Array:
    return _ratio(2 * counts.right.sum(axis=0), counts.predicted.sum(axis=0) + counts.given.sum(axis=0))


def _f1_weighted(counts: ConfusionCounts) -> Array:
    return _ratio((_f1(counts) * counts.given).sum(axis=0), counts.given.sum(axis=0))


def _counted(counts: ConfusionCounts) -> npt.NDArray[np.bool_]:
    return np.asarray(counts.predicted + counts.given > (0 if counts.kind == "single" else -1))


def _balanced_accuracy(counts: ConfusionCounts) -> Array:
    recalls = _ratio(counts.right, counts.given)
    if counts.kind == "single":
        return _mean(recalls, counts.given > 0)
    without = counts.rows - counts.given
    refused = without - (counts.predicted - counts.right)
    halves = np.stack([recalls, _ratio(refused, without)])
    return np.asarray(_mean(halves, np.stack([counts.given, without]) > 0).mean(axis=0))


def _matthews_correlation(counts: ConfusionCounts) -> Array:
    right, predicted, given, rows = counts.right, counts.predicted, counts.given, counts.rows
    if counts.kind == "multi":
        spread = predicted * (rows - predicted) * given * (rows - given)
        return np.asarray(_ratio(rows * right - predicted * given, _root(spread)).mean(axis=0))
    spread = (rows**2 - (predicted**2).sum(axis=0)) * (rows**2 - (given**2).sum(axis=0))
    return _ratio(rows * right.sum(axis=0) - (predicted * given).sum(axis=0), _root(spread))


def _root(spread: Array) -> Array:
    """Counts of resamples are no whole numbers, and their rounding may leave a spread of 0 just below it."""
    return np.sqrt(np.maximum(spread, 0.0))


SCORES: dict[str, Callable[[ConfusionCounts], Array]] = {
    "accuracy": lambda counts: np.asarray(counts.exact / counts.rows),
    "balanced_accuracy": _balanced_accuracy,
    "precision_macro": _precision,
    "recall_macro": _recall,
    "f1_macro": lambda counts: _mean(_f1(counts), _counted(counts)),
    "f1_micro": _f1_micro,
    "f1_weighted": _f1_weighted,
    "matthews_correlation": _matthews_correlation,
}
