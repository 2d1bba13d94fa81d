"""Search for the decision thresholds that maximize a metric: a sweep over all cuts between neighboring scores."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import numpy.typing as npt

from hf_finetune.evaluation.classification.confusion_counts import ThresholdMetric, compute_score
from hf_finetune.evaluation.metrics.classification_functions import ConfusionCounts
from hf_finetune.models.decision import Decision

Array = npt.NDArray[np.float64]
Integers = npt.NDArray[np.int64]

# Passes over the labels if the best threshold of one depends on those of the others; two or three are usual.
MAX_PASSES = 10
# Counts (labels, cuts) of one sweep; with more, the cuts of a multi-class search are reduced to a grid of quantiles.
MAX_COUNTS = 2**22
# Smaller gains are rounding.
MIN_GAIN = 1e-12
# Thresholds stay this far from 0 and 1, where float32 probabilities cannot tell them apart.
EDGE = 1e-6


def find_thresholds(logits: Array, references: Integers, even: Decision, metric: ThresholdMetric) -> Array:
    """Find the thresholds that maximize `metric` on these rows, at the temperature of `even`: (labels,).

    `logits`: (rows, labels); `references`: class numbers (rows,), or 0 and 1 (rows, labels) for multi-label. Two labels
    and multi-label: every cut between neighboring probabilities is tried. More than two: coordinate ascent, one label
    after the other, until none gains. Of equally good thresholds it takes the middle of their range, and of several
    ranges the one nearest to the threshold before; without a gain nothing is changed.
    """
    if even.kind == "multi":
        return _tune_multi_label(even.compute_probabilities(logits), references, metric)
    if len(even.labels) > 2:
        return _tune_multi_class(logits / even.temperature, references, metric)
    values, counts = _sweep(even.compute_probabilities(logits)[:, 1], references, np.zeros_like(references), 1, 2)
    second = _select_cut(values, compute_score(metric, counts), 0.5, (EDGE, 1 - EDGE))
    return np.array([1 - second, second])


def _tune_multi_label(probabilities: Array, references: Integers, metric: ThresholdMetric) -> Array:
    """(rows, labels), (rows, labels) -> thresholds (labels,)."""
    thresholds = np.full(probabilities.shape[1], 0.5)
    for _ in range(MAX_PASSES):
        before = thresholds.copy()
        for label in range(len(thresholds)):
            values, scores = _score_cuts(probabilities, references, thresholds, label, metric)
            thresholds[label] = _select_cut(values, scores, float(thresholds[label]), (EDGE, 1 - EDGE))
        if np.array_equal(thresholds, before):
            break
    return thresholds


def _score_cuts(
    probabilities: Array, references: Integers, thresholds: Array, label: int, metric: ThresholdMetric
) -> tuple[Array, Array]:
    """Score each cut of one label while the other thresholds stay: distinct probabilities (cuts - 1,), scores (cuts,).

    `probabilities` and `references`: (rows, labels); `thresholds`: (labels,). For a mean over labels the score of this
    label alone is enough: the others add the same to every cut.
    """
    chosen, others = probabilities >= thresholds, np.arange(len(thresholds)) != label
    scores, given = probabilities[:, label], references[:, label]
    if metric == "accuracy":  # only a row that is correct in all other labels can become correct
        others_correct = (chosen == references)[:, others].all(axis=1)
        given = given[others_correct]
        values, counts = _sweep(scores[others_correct], given, np.zeros_like(given), 1, 2)
        return values, counts.exact
    values, counts = _sweep(scores, given, np.zeros_like(given), 1, 2)
    hits, predictions, support = counts.true_positives[1:], counts.predictions[1:], counts.support[1:]
    if metric == "f1_micro":
        hits = hits + (chosen * references)[:, others].sum()
        predictions, support = predictions + chosen[:, others].sum(), support + references[:, others].sum()
    counts = replace(counts, kind="multi", true_positives=hits, predictions=predictions, support=support)
    return values, compute_score(metric, counts)


def _tune_multi_class(logits: Array, references: Integers, metric: ThresholdMetric) -> Array:
    """Coordinate ascent: (rows, labels), (rows,) -> thresholds (labels,) that add up to 1.

    A row gets the label with the largest `logit - log(threshold)`. As one label's threshold moves, the row changes
    between that label and the best of the others where log(threshold) equals the margin between the two.
    """
    labels, limit = logits.shape[1], -np.log(EDGE)
    logarithms = np.zeros(labels)  # of the thresholds, which are normalized at the end
    for _ in range(MAX_PASSES):
        before = logarithms.copy()
        for label in range(labels):
            shifted = logits - logarithms
            shifted[:, label] = -np.inf
            other = shifted.argmax(axis=1)
            margins = logits[:, label] - shifted[np.arange(len(logits)), other]
            values, counts = _sweep(_round_to_grid(margins, MAX_COUNTS // labels), references, other, label, labels)
            bounds = (max(values[0] - 1, -limit), min(values[-1] + 1, limit))
            logarithms[label] = _select_cut(values, compute_score(metric, counts), float(logarithms[label]), bounds)
        if np.array_equal(logarithms, before):
            break
    thresholds = np.exp(logarithms - logarithms.max())
    return np.asarray(thresholds / thresholds.sum())


def _round_to_grid(values: Array, most: int) -> Array:
    """Round `values`, (rows,), down to `most` of their quantiles, if they are more.

    [1, 2, 3, 4, 5] to 3 quantiles: [1, 1, 3, 3, 5].
    """
    if len(values) <= most:
        return values
    grid = np.quantile(values, np.linspace(0, 1, most))
    return np.asarray(grid[np.searchsorted(grid, values, side="right") - 1])


def _sweep(
    scores: Array, references: Integers, other: Integers, label: int, labels: int
) -> tuple[Array, ConfusionCounts]:
    """Count the predictions at every cut: the sorted distinct scores (cuts - 1,), and counts (labels, cuts).

    `scores`, `references` and `other`: (rows,). At cut `c` the rows with the `c` lowest scores are predicted as
    `other`, the rest as `label`.
    """
    # scores [0.2, 0.9, 0.5], references [0, 1, 1], label 1, other 0 everywhere: values [0.2, 0.5, 0.9] and
    #   cut              0  1  2  3
    #   predicted as 1   3  2  1  0
    #   of these true    2  2  1  0      the cut 1, between 0.2 and 0.5, has no error
    values, ranks = np.unique(scores, return_inverse=True)
    cuts = len(values) + 1

    def below(codes: Integers, rows: npt.NDArray[np.bool_]) -> Array:  # (rows,), (rows,) -> (labels, cuts)
        places = codes[rows] * cuts + ranks[rows] + 1
        return np.bincount(places, minlength=labels * cuts).reshape(labels, cuts).cumsum(axis=1).astype(np.float64)

    everywhere = np.ones(len(scores), dtype=bool)
    predictions, hits = below(other, everywhere), below(other, other == references)
    predictions[label] = len(scores) - predictions.sum(axis=0)
    support = np.bincount(references, minlength=labels).astype(np.float64)[:, None]
    hits[label] = support[label] - below(references, references == label)[label]
    return values, ConfusionCounts("single", hits, predictions, support, len(scores), hits.sum(axis=0))


def _select_cut(values: Array, scores: Array, before: float, bounds: tuple[float, float]) -> float:
    """Return the threshold of the best cut; cut `c` is every threshold above value `c - 1` up to value `c`.

    `values`: (cuts - 1,), `scores`: (cuts,); `bounds` limit the first and the last cut.
    """
    # values [0.2, 0.5, 0.9], scores [0.67, 1, 0.67, 0.33], before 0.9: cut 1 is best, 0.35 the middle of (0.2, 0.5].
    now = scores[np.searchsorted(values, before, side="left")]
    edges = np.clip(np.concatenate([[bounds[0]], values, [bounds[1]]]), *bounds)
    possible = np.diff(edges) > 0
    best = scores[possible].max(initial=-np.inf)
    if best <= now + MIN_GAIN:
        return before
    good = np.concatenate([[False], possible & (scores >= best - MIN_GAIN), [False]])
    turns = np.flatnonzero(np.diff(good))  # where ranges of good cuts begin and end
    low, high = edges[turns[::2]], edges[turns[1::2]]
    nearest = np.maximum(low - before, before - high).argmin()
    middle = (low[nearest] + high[nearest]) / 2
    return float(middle if middle > low[nearest] else high[nearest])
