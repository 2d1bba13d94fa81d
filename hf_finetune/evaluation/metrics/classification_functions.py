"""The formulas of a classifier's metrics that take labels, by way of confusion counts.

They take any number of tables at once, (labels, ...) -> (...): a split, its resamples, or the cuts of a threshold. As
in scikit-learn a ratio with denominator 0 is 0, and a mean over classes leaves out those that neither rows nor
predictions have. The shape of references tells the kind: class numbers (rows,), or 0 and 1 (rows, labels).
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import Any, Literal

import numpy as np
import numpy.typing as npt

Array = npt.NDArray[np.float64]
Integers = npt.NDArray[np.int64]
Average = Literal["macro", "micro", "weighted"] | None


@dataclass(frozen=True, slots=True)
class ConfusionCounts:
    """Rows and predictions of each label: (labels, ...); resamples, whose rows have weights, have fractions."""

    kind: Literal["single", "multi"]
    true_positives: Array
    predictions: Array
    support: Array
    rows: int | Array
    """(...)"""
    exact: Array
    """Rows with all labels right: (...)."""


def count_labels(
    predictions: Integers, references: Integers, labels: Sequence[int] | npt.NDArray[Any] | None = None
) -> ConfusionCounts:
    """Count the rows of a split: (rows,), or (rows, labels) for multi-label -> (labels,).

    `labels` are the class numbers (the columns) to count, by default those that occur (all columns). Raises
    `ValueError` without rows and for shapes that differ.
    """
    if not len(references) or predictions.shape != references.shape:
        raise ValueError(f"predictions {predictions.shape} and references {references.shape} are not rows to compare")
    equal = predictions == references
    if references.ndim == 2:
        columns = slice(None) if labels is None else list(labels)
        parts = (predictions * references, predictions, references)
        hits, predicted, support = (part[:, columns].sum(axis=0).astype(np.float64) for part in parts)
        exact = np.asarray(equal.all(axis=1).sum(), dtype=np.float64)
        return ConfusionCounts("multi", hits, predicted, support, len(references), exact)
    numbers = np.union1d(references, predictions) if labels is None else np.asarray(labels)
    ordered = (np.sort(values) for values in (references[equal], predictions, references))
    hits, predicted, support = (
        (np.searchsorted(values, numbers, side="right") - np.searchsorted(values, numbers)).astype(np.float64)
        for values in ordered
    )
    exact = np.asarray(equal.sum(), dtype=np.float64)
    return ConfusionCounts("single", hits, predicted, support, len(references), exact)


def compute_accuracy(counts: ConfusionCounts) -> Array:
    """Compute the share of rows with all labels right, (labels, ...) -> (...); NaN without rows."""
    return _divide(counts.exact, np.asarray(counts.rows), math.nan)


def compute_precision(counts: ConfusionCounts, average: Average = "macro") -> Array:
    """Compute the precision, (labels, ...) -> (...), or (labels, ...) without an average."""
    return _apply_average(counts, average, lambda each: _divide(each.true_positives, each.predictions))


def compute_recall(counts: ConfusionCounts, average: Average = "macro") -> Array:
    """Compute the recall, (labels, ...) -> (...), or (labels, ...) without an average."""
    return _apply_average(counts, average, lambda each: _divide(each.true_positives, each.support))


def compute_f1(counts: ConfusionCounts, average: Average = "macro") -> Array:
    """Compute the harmonic mean of precision and recall, (labels, ...) -> (...), or (labels, ...) without an average.

    Of 3 rows with a label and 2 predictions of it, one of them right: 2 * 1 / (2 + 3) = 0.4.
    """
    return _apply_average(
        counts, average, lambda each: _divide(2 * each.true_positives, each.predictions + each.support)
    )


def compute_balanced_accuracy(counts: ConfusionCounts) -> Array:
    """Compute the mean recall of the classes that rows have; for multi-label the mean over labels of yes and no."""
    recalls = _divide(counts.true_positives, counts.support)
    if counts.kind == "single":
        return _average_labels(recalls, counts.support > 0)
    negatives = counts.rows - counts.support
    true_negatives = negatives - (counts.predictions - counts.true_positives)
    halves = np.stack([recalls, _divide(true_negatives, negatives)])  # (2, labels, ...)
    return np.asarray(_average_labels(halves, np.stack([counts.support, negatives]) > 0).mean(axis=0))


def compute_matthews_correlation(counts: ConfusionCounts) -> Array:
    """Compute Matthews' correlation (of classes: Gorodkin, 2004), or its mean over labels: (labels, ...) -> (...)."""
    hits, predictions, support, rows = counts.true_positives, counts.predictions, counts.support, counts.rows
    if counts.kind == "multi":
        spread = predictions * (rows - predictions) * support * (rows - support)
        return np.asarray(_divide(rows * hits - predictions * support, _take_root(spread)).mean(axis=0))
    spread = (rows**2 - (predictions**2).sum(axis=0)) * (rows**2 - (support**2).sum(axis=0))
    return _divide(rows * hits.sum(axis=0) - (predictions * support).sum(axis=0), _take_root(spread))


def score_labels(formula: Callable[[ConfusionCounts], Array], predictions: Any, references: Any) -> float:
    """Compute a formula of counts for the rows of a split, (rows,) or (rows, labels); NaN without rows."""
    if not len(references):
        return math.nan
    return float(formula(count_labels(np.asarray(predictions), np.asarray(references))))


def score_averaged(
    formula: Callable[[ConfusionCounts, Average], Array],
    predictions: Any,
    references: Any,
    average: Average,
    labels: Sequence[int] | None,
) -> float | list[float]:
    """Compute precision, recall or F1 of a split, (rows,) or (rows, labels); a list, by label, without an average.

    NaN without rows.
    """
    if not len(references):
        return math.nan if average is not None else [math.nan] * len(labels or ())
    counts = count_labels(np.asarray(predictions), np.asarray(references), labels)
    if average == "macro" and labels is not None:
        return float(formula(counts, None).mean())  # scikit-learn leaves none out that was asked for
    found: float | list[float] = formula(counts, average).tolist()
    return found


def count_confusions(predictions: Any, references: Any, labels: Sequence[int] | None = None) -> list[Any]:
    """Count rows by reference (down) and prediction (across): (labels, labels), for multi-label (labels, 2, 2)."""
    from sklearn.metrics import confusion_matrix

    truth, predicted = np.asarray(references), np.asarray(predictions)
    if not len(truth):  # scikit-learn refuses to count nothing
        return [[0] * len(labels or ()) for _ in labels or ()]
    if truth.ndim == 2:  # by column: scikit-learn's own function takes (rows, 1) for two classes
        columns = range(truth.shape[1]) if labels is None else labels
        return [confusion_matrix(truth[:, each], predicted[:, each], labels=[0, 1]).tolist() for each in columns]
    numbers = np.union1d(truth, predicted).tolist() if labels is None else labels
    return list(confusion_matrix(truth, predicted, labels=numbers).tolist())


def _divide(top: Array, bottom: Array, otherwise: float = 0.0) -> Array:
    """Divide element by element, (labels, ...) or (...); `otherwise` where the denominator is 0."""
    return np.asarray(np.divide(top, bottom, out=np.full(np.broadcast(top, bottom).shape, otherwise), where=bottom > 0))


def _apply_average(counts: ConfusionCounts, average: Average, ratio: Callable[[ConfusionCounts], Array]) -> Array:
    """(labels, ...) -> (...), or (labels, ...) without an average."""
    if average == "micro":
        parts = (counts.true_positives, counts.predictions, counts.support)
        hits, predictions, support = (part.sum(axis=0) for part in parts)
        return ratio(replace(counts, true_positives=hits, predictions=predictions, support=support))
    ratios = ratio(counts)
    if average is None:
        return ratios
    if average == "weighted":
        return _divide((ratios * counts.support).sum(axis=0), counts.support.sum(axis=0))
    if average != "macro":
        raise ValueError(f"average {average!r} is none of macro, micro, weighted and None")
    occurs = counts.predictions + counts.support > (0 if counts.kind == "single" else -1)
    return _average_labels(ratios, np.asarray(occurs))


def _average_labels(values: Array, counted: npt.NDArray[np.bool_]) -> Array:
    """Mean of the labels that are `counted`, (labels, ...) -> (...); NaN without any."""
    if values.ndim == 1:  # NumPy adds eight at a time: zeros in between would change the last bit
        values, counted = values[counted], counted[counted]
    number = counted.sum(axis=0)
    total = np.where(counted, values, 0.0).sum(axis=0)
    return np.asarray(np.divide(total, number, out=np.full(np.shape(total), np.nan), where=number > 0))


def _take_root(spread: Array) -> Array:
    """Take the square root, (...) -> (...)."""
    # Fractional counts of resamples may round a spread of 0 to just below it.
    return np.sqrt(np.maximum(spread, 0.0))
