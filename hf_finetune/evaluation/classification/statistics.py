"""The headline figures of many resamples at once: what `bootstrap_intervals` takes.

The metric modules would take an hour for what takes a second here; the tests hold one against the other.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, Literal

import numpy as np
import numpy.typing as npt
from scipy.sparse import csr_array

from hf_finetune.evaluation.classification.confusion_counts import ConfusionCounts, compute_scores
from hf_finetune.evaluation.statistics.bootstrap import Statistic

Array = npt.NDArray[np.float64]
Integers = npt.NDArray[np.int64]

CALIBRATION_BINS = 15
MIN_PROBABILITY = float(np.finfo(np.float64).eps)  # below it scikit-learn's log-loss takes it for this
ROUNDING = 1e-12


def make_label_statistic(
    kind: Literal["single", "multi"], probabilities: Array, chosen: Integers, references: Integers
) -> Statistic:
    """The headline figures of resamples of a split; probabilities (rows, labels), labels as `Decision.choose` has them.

    A resample has the same weight in all as it would have rows; areas are NaN where it leaves them undefined.
    """
    labels = probabilities.shape[1]
    given, predicted = references, chosen
    if kind == "single":
        given, predicted = ((each[:, None] == np.arange(labels)).astype(np.int64) for each in (references, chosen))
    sums = [csr_array(each.T.astype(np.float64)) for each in (given * predicted, predicted, given)]
    exact = (given == predicted).all(axis=1).astype(np.float64)
    losses = _log_losses(kind, probabilities, references)
    gaps = _calibration_gaps(kind, probabilities, references)
    binary = kind == "single" and labels == 2
    areas = [_areas(probabilities[:, label], given[:, label]) for label in range(1 if binary else 0, labels)]

    def statistic(weights: Array) -> dict[str, Array]:
        rows = weights.sum(axis=0)
        right, predicted_rows, given_rows = (each @ weights for each in sums)
        counts = ConfusionCounts(kind, right, predicted_rows, given_rows, rows, exact @ weights)
        found = np.stack([area(weights) for area in areas])  # (labels, 2, resamples)
        roc_auc, pr_auc = _mean_of_defined(found)
        return {
            **compute_scores(counts),
            "roc_auc": roc_auc,
            "pr_auc": pr_auc,
            "log_loss": losses @ weights / rows,
            "expected_calibration_error": np.abs(gaps @ weights).sum(axis=0) / rows,
        }

    return statistic


def make_regression_statistic(predicted: Array, references: Array) -> Statistic:
    """Loss (mean squared error), mae, r2 and pearson of resamples of a split."""
    # Around their means: squares of large numbers would lose what differs.
    given, said = references - references.mean(), predicted - predicted.mean()
    error = predicted - references
    moments = np.stack([given, said, given**2, said**2, given * said, error**2, np.abs(error)])

    def statistic(weights: Array) -> dict[str, Array]:
        y, p, yy, pp, yp, squared, absolute = moments @ weights / weights.sum(axis=0)
        variance, spread = yy - y**2, pp - p**2
        # A resample may hold one row many times over: no variance, but for rounding.
        variance = np.where(variance > ROUNDING * yy, variance, np.nan)
        spread = np.where(spread > ROUNDING * pp, spread, np.nan)
        correlation = (yp - y * p) / np.sqrt(variance * spread)
        return {"loss": squared, "mae": absolute, "r2": 1 - squared / variance, "pearson": correlation}

    return statistic


def _log_losses(kind: str, probabilities: Array, references: Integers) -> Array:
    """Of each row; with several labels the mean over them."""
    if kind == "single":
        of_truth = probabilities[np.arange(len(references)), references][:, None]
    else:
        of_truth = np.where(references > 0, probabilities, 1 - probabilities)
    return np.asarray(-np.log(np.clip(of_truth, MIN_PROBABILITY, 1 - MIN_PROBABILITY)).mean(axis=1))


def _calibration_gaps(kind: str, probabilities: Array, references: Integers) -> Any:
    """(bins, rows), sparse: what each row adds to the gap of a bin; with several labels, the mean over them."""
    confidence, true = probabilities, references
    if kind == "single":
        confidence, true = probabilities.max(axis=1)[:, None], (probabilities.argmax(axis=1) == references)[:, None]
    bins = np.clip(np.ceil(confidence * CALIBRATION_BINS) - 1, 0, CALIBRATION_BINS - 1).astype(np.int64)
    rows, answers = confidence.shape
    places = (bins.ravel(), np.repeat(np.arange(rows), answers))
    return csr_array(((confidence - true).ravel() / answers, places), shape=(CALIBRATION_BINS, rows))


def _areas(scores: Array, truth: Integers) -> Callable[[Array], Array]:
    """Areas under the ROC curve and the precision-recall curve: (2, resamples); NaN where a resample has none."""
    order = np.argsort(-scores, kind="stable")
    starts = np.flatnonzero(np.diff(scores[order], prepend=np.inf))  # of rows with equal scores
    true = truth[order].astype(np.float64)[:, None]

    def areas(weights: Array) -> Array:
        everything = weights[order]
        hits = everything * true
        if len(starts) < len(order):
            everything, hits = (np.add.reduceat(each, starts, axis=0) for each in (everything, hits))
        above, above_all = hits.cumsum(axis=0), everything.cumsum(axis=0)
        positive, negative = above[-1].copy(), above_all[-1] - above[-1]
        # Of each row without the label: rows that have it and are scored higher, and half of those scored the same.
        misses = everything - hits
        wins = _products(misses, above) - _products(misses, hits) / 2
        precision = np.divide(above, above_all, out=above, where=above_all > 0)
        sums = np.stack([wins, _products(hits, precision)])
        whole = np.stack([positive * negative, positive])
        return np.asarray(np.divide(sums, whole, out=np.full_like(sums, np.nan), where=whole > 0))

    return areas


def _products(one: Array, other: Array) -> Array:
    """The sum of the products of each column."""
    return np.asarray(np.einsum("ij,ij->j", one, other))


def _mean_of_defined(found: Array) -> Array:
    """Mean over the labels, (labels, 2, resamples) -> (2, resamples), NaN where no label has an area."""
    defined = ~np.isnan(found)
    number = defined.sum(axis=0)
    total = np.where(defined, found, 0.0).sum(axis=0)
    return np.asarray(np.divide(total, number, out=np.full_like(total, np.nan), where=number > 0))
