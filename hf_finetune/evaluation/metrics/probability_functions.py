"""The formulas of a classifier's metrics that take probabilities or scores, (rows, labels).

The shape of references tells the kind: class numbers (rows,), or 0 and 1 (rows, labels). Areas are scikit-learn's;
`classification/statistics.py` has them for weighted rows.
"""

from __future__ import annotations

import math
import warnings
from collections.abc import Callable
from typing import Any

import numpy as np
import numpy.typing as npt

Array = npt.NDArray[np.float64]
Integers = npt.NDArray[np.int64]

CALIBRATION_BINS = 15
MIN_PROBABILITY = float(np.finfo(np.float64).eps)  # lower ones count as this in the log-loss, as in scikit-learn


def compute_log_losses(probabilities: Array, references: Integers) -> Array:
    """Compute minus the log of the probability of the truth: (rows, labels) -> (rows, 1), multi-label (rows, labels).

    Raises `ValueError` for what is no probability and for class numbers without a column.
    """
    if probabilities.size and not (probabilities.min() >= 0 and probabilities.max() <= 1):
        raise ValueError("a probability lies between 0 and 1")
    if references.ndim == 2:
        of_truth = np.where(references > 0, probabilities, 1 - probabilities)
    elif np.isin(references, np.arange(probabilities.shape[1])).all():
        of_truth = probabilities[np.arange(len(references)), references][:, None]
        if not np.allclose(probabilities.sum(axis=1), 1, rtol=math.sqrt(MIN_PROBABILITY)):
            warnings.warn("the probabilities of a row do not add up to 1", stacklevel=2)
    else:
        raise ValueError(f"a class number is not one of the {probabilities.shape[1]} columns of probabilities")
    return np.asarray(-np.log(np.clip(of_truth, MIN_PROBABILITY, 1 - MIN_PROBABILITY)))


def average_log_loss(probabilities: Any, references: Any) -> float:
    """Compute the mean of `compute_log_losses`, over rows and labels; NaN without rows."""
    if not len(references):
        return math.nan
    return float(compute_log_losses(np.asarray(probabilities), np.asarray(references)).mean())


def select_answers(probabilities: Array, references: Integers) -> tuple[Array, npt.NDArray[Any]]:
    """Return confidence and truth of each answer: (rows, labels) -> (rows, 1) each, multi-label (rows, labels) each."""
    if references.ndim == 2:
        return probabilities, references
    return probabilities.max(axis=1)[:, None], (probabilities.argmax(axis=1) == references)[:, None]


def assign_bins(confidence: Array, bins: int = CALIBRATION_BINS) -> Integers:
    """Number the bins of equal width, open below and closed above, from 0: (rows, answers) -> (rows, answers)."""
    # 15 bins: 0.0 and 1/15 are in bin 0, 0.07 in bin 1, 1.0 in bin 14.
    return np.asarray(np.clip(np.ceil(confidence * bins) - 1, 0, bins - 1), dtype=np.int64)


def average_gaps(gaps: npt.NDArray[Any], answers: int | Array) -> Array:
    """Compute the calibration error from each bin's sum of confidence minus truth: (bins, ...) -> (...)."""
    return np.asarray(np.abs(gaps).sum(axis=0) / answers)


def compute_calibration_error(probabilities: Any, references: Any, bins: int = CALIBRATION_BINS) -> float:
    """Compute the expected calibration error (Guo et al., 2017) of (rows, labels); NaN without rows."""
    if not len(references):
        return math.nan
    confidence, truth = select_answers(np.asarray(probabilities), np.asarray(references))
    places = assign_bins(confidence, bins).ravel()
    gaps = np.bincount(places, weights=(confidence - truth).ravel(), minlength=bins)
    return float(average_gaps(gaps, confidence.size))


def compute_roc_auc(scores: Any, references: Any, average: str | None = "macro") -> Any:
    """Compute the area under the ROC curve of (rows, labels); NaN for a label that all rows have, or none."""
    from sklearn.metrics import roc_auc_score

    def compute_area(truth: Integers, score: Array) -> float:  # (rows,) each
        return float(roc_auc_score(truth, score)) if 0 < truth.sum() < len(truth) else math.nan

    return _average_areas(compute_area, np.asarray(scores), np.asarray(references), average)


def compute_pr_auc(scores: Any, references: Any, average: str | None = "macro") -> Any:
    """Compute the average precision of (rows, labels); NaN for a label that no row has."""
    from sklearn.metrics import average_precision_score

    def compute_area(truth: Integers, score: Array) -> float:  # (rows,) each
        return float(average_precision_score(truth, score)) if truth.any() else math.nan

    return _average_areas(compute_area, np.asarray(scores), np.asarray(references), average)


def _average_areas(
    compute_area: Callable[[Integers, Array], float], scores: Array, references: Integers, average: str | None
) -> float | list[float]:
    """Return the mean over labels that have an area, of two classes the second's; the list of all without average."""
    if not len(references):
        return [] if average is None else math.nan
    truth = references if references.ndim == 2 else references[:, None] == np.arange(scores.shape[1])  # (rows, labels)
    if references.ndim == 1 and scores.shape[1] == 2 and average is not None:
        scores, truth = scores[:, 1:], truth[:, 1:]
    areas = [compute_area(*pair) for pair in zip(truth.T, scores.T, strict=True)]
    if average is None:
        return areas
    return float(np.nanmean(areas)) if not np.isnan(areas).all() else math.nan
