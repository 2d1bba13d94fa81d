"""The flat metrics of a classifier or a regression for many resamples at once: what `bootstrap_intervals` takes.

A resample is a column of row weights, (rows, resamples). What a row adds to the sums behind a metric is computed once;
the metrics of a resample are those of its weighted sums, by the formulas of `metrics/`. Areas and moments are computed
here, since scikit-learn has no weights of many resamples at once; tests hold them against scikit-learn.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, Literal

import numpy as np
import numpy.typing as npt
from scipy.sparse import csr_array

from hf_finetune.evaluation.classification.confusion_counts import compute_scores
from hf_finetune.evaluation.metrics.classification_functions import ConfusionCounts
from hf_finetune.evaluation.metrics.probability_functions import (
    CALIBRATION_BINS,
    assign_bins,
    average_gaps,
    compute_log_losses,
    select_answers,
)
from hf_finetune.evaluation.statistics.bootstrap import Statistic

Array = npt.NDArray[np.float64]
Integers = npt.NDArray[np.int64]

ROUNDING = 1e-12


def make_label_statistic(
    kind: Literal["single", "multi"], probabilities: Array, chosen: Integers, references: Integers
) -> Statistic:
    """Make the metrics of a split a function of row weights: (rows, resamples) -> (resamples,) each.

    `probabilities`: (rows, labels); `chosen`, as `Decision.choose` has them, and `references`: (rows,), or (rows,
    labels) for multi-label. Areas are NaN for a resample that leaves them undefined.
    """
    # References [0, 1, 1], chosen [0, 0, 1]. Label 1 has true positives in rows [0, 0, 1], predictions in [0, 0, 1]
    # and support in [0, 1, 1]; the resample that takes row 2 twice and row 1 once has weights [0, 1, 2], and so counts
    # of 2, 2 and 3: precision 1, recall 2/3.
    labels = probabilities.shape[1]
    truth, predicted = references, chosen
    if kind == "single":
        truth, predicted = ((each[:, None] == np.arange(labels)).astype(np.int64) for each in (references, chosen))
    parts = [csr_array(each.T.astype(np.float64)) for each in (truth * predicted, predicted, truth)]
    exact = (truth == predicted).all(axis=1).astype(np.float64)
    losses = compute_log_losses(probabilities, references).mean(axis=1)  # (rows,)
    gaps = _split_gaps(probabilities, references)
    binary = kind == "single" and labels == 2
    areas = [_make_areas(probabilities[:, label], truth[:, label]) for label in range(1 if binary else 0, labels)]

    def statistic(weights: Array) -> dict[str, Array]:  # (rows, resamples) -> (resamples,) each
        rows = weights.sum(axis=0)
        hits, predictions, support = (part @ weights for part in parts)  # (labels, resamples) each
        roc_auc, pr_auc = _average_defined(np.stack([area(weights) for area in areas]))  # (labels, 2, resamples)
        return {
            **compute_scores(ConfusionCounts(kind, hits, predictions, support, rows, exact @ weights)),
            "roc_auc": roc_auc,
            "pr_auc": pr_auc,
            "log_loss": losses @ weights / rows,
            "expected_calibration_error": average_gaps(gaps @ weights, rows),
        }

    return statistic


def make_regression_statistic(predicted: Array, references: Array) -> Statistic:
    """Make the metrics of predictions, (rows,), a function of row weights: (rows, resamples) -> (resamples,) each."""
    # Around their means: squares of large numbers would lose what differs.
    truth, centered = references - references.mean(), predicted - predicted.mean()
    error = predicted - references
    moments = np.stack([truth, centered, truth**2, centered**2, truth * centered, error**2, np.abs(error)])

    def statistic(weights: Array) -> dict[str, Array]:  # (rows, resamples) -> (resamples,) each
        y, p, yy, pp, yp, squared, absolute = moments @ weights / weights.sum(axis=0)
        variance, spread = yy - y**2, pp - p**2
        # A resample may hold one row many times: its variance is 0 but for rounding.
        variance = np.where(variance > ROUNDING * yy, variance, np.nan)
        spread = np.where(spread > ROUNDING * pp, spread, np.nan)
        correlation = (yp - y * p) / np.sqrt(variance * spread)
        return {"loss": squared, "mae": absolute, "r2": 1 - squared / variance, "pearson": correlation}

    return statistic


def _split_gaps(probabilities: Array, references: Integers) -> Any:
    """Return what each row adds to the gap of a bin, for multi-label the mean over labels: (bins, rows), sparse."""
    confidence, truth = select_answers(probabilities, references)
    rows, answers = confidence.shape
    places = (assign_bins(confidence).ravel(), np.repeat(np.arange(rows), answers))
    return csr_array(((confidence - truth).ravel() / answers, places), shape=(CALIBRATION_BINS, rows))


def _make_areas(scores: Array, truth: Integers) -> Callable[[Array], Array]:
    """Make ROC AUC and average precision of one label, (rows,) each, a function of row weights.

    (rows, resamples) -> (2, resamples); NaN for a resample that has none.
    """
    # Scores [0.9, 0.4, 0.4, 0.1] of truth [1, 1, 0, 0], each row once: of the 2 * 2 pairs of a positive and a negative
    # row, 0.9 wins both and 0.4 wins one and ties one (a half), ROC AUC 3.5 / 4. Average precision: 1/2 of the recall
    # at precision 1, then 1/2 at 2/3 (rows of one score come together), 5/6.
    order = np.argsort(-scores, kind="stable")
    starts = np.flatnonzero(np.diff(scores[order], prepend=np.inf))  # of runs of equal scores
    positive_rows = truth[order].astype(np.float64)[:, None]

    def compute_areas(weights: Array) -> Array:  # (rows, resamples) -> (2, resamples)
        everything = weights[order]
        hits = everything * positive_rows
        if len(starts) < len(order):
            everything, hits = (np.add.reduceat(each, starts, axis=0) for each in (everything, hits))
        above, above_all = hits.cumsum(axis=0), everything.cumsum(axis=0)
        positive, negative = above[-1].copy(), above_all[-1] - above[-1]
        # For each negative row: the positive rows that are scored higher, and half of those scored the same.
        misses = everything - hits
        wins = _sum_products(misses, above) - _sum_products(misses, hits) / 2
        precision = np.divide(above, above_all, out=above, where=above_all > 0)
        sums = np.stack([wins, _sum_products(hits, precision)])
        whole = np.stack([positive * negative, positive])
        return np.asarray(np.divide(sums, whole, out=np.full_like(sums, np.nan), where=whole > 0))

    return compute_areas


def _sum_products(one: Array, other: Array) -> Array:
    """The dot product of each column with its own in `other`: (rows, resamples) twice -> (resamples,)."""
    return np.asarray(np.einsum("ij,ij->j", one, other))


def _average_defined(areas: Array) -> Array:
    """Mean over the labels, (labels, 2, resamples) -> (2, resamples); NaN where no label has an area."""
    defined = ~np.isnan(areas)
    number = defined.sum(axis=0)
    total = np.where(defined, areas, 0.0).sum(axis=0)
    return np.asarray(np.divide(total, number, out=np.full_like(total, np.nan), where=number > 0))
