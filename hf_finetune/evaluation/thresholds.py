"""Search for the decision thresholds that are best for a metric."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import numpy.typing as npt

from hf_finetune.evaluation.counts import Counts, Name, score_of
from hf_finetune.models.decisions import Decision

Array = npt.NDArray[np.float64]
Integers = npt.NDArray[np.int64]

# Passes over the labels where the best threshold of one depends on those of the others; two or three are usual.
MOST_PASSES = 10
# Counts (labels, thresholds) that are worked on at once; beyond, thresholds of many labels are tried on a coarser grid.
MOST_COUNTS = 2**22
# A gain below it is rounding.
LEAST_GAIN = 1e-12
# Nearer to 0 or 1 a threshold would ask for what a probability in single precision cannot say.
EDGE = 1e-6


def tuned_thresholds(logits: Array, references: Integers, even: Decision, metric: Name) -> Array:
    """The thresholds that are best for `metric` on these rows, for the temperature of `even`: (labels,).

    Two labels, and several at once: every threshold between two neighbouring probabilities is tried. More than two:
    one label after the other, until none gains. Of thresholds that are equally good it is the middle of their range,
    and of several ranges the one nearest to the threshold before; nothing is changed for nothing.
    """
    if even.kind == "multi":
        return _of_several_labels(even.probabilities(logits), references, metric)
    if len(even.labels) > 2:
        return _of_many_classes(logits / even.temperature, references, metric)
    values, counts = _sweep(even.probabilities(logits)[:, 1], references, np.zeros_like(references), 1, 2)
    second = _best_cut(values, score_of(metric, counts), 0.5, (EDGE, 1 - EDGE))
    return np.array([1 - second, second])


def _of_several_labels(probabilities: Array, references: Integers, metric: Name) -> Array:
    thresholds = np.full(probabilities.shape[1], 0.5)
    for _ in range(MOST_PASSES):
        before = thresholds.copy()
        for label in range(len(thresholds)):
            values, scores = _cuts_of_label(probabilities, references, thresholds, label, metric)
            thresholds[label] = _best_cut(values, scores, float(thresholds[label]), (EDGE, 1 - EDGE))
        if np.array_equal(thresholds, before):
            break
    return thresholds


def _cuts_of_label(
    probabilities: Array, references: Integers, thresholds: Array, label: int, metric: Name
) -> tuple[Array, Array]:
    """The distinct probabilities of a label, and the score of each cut between them as the other thresholds stand.

    Most metrics are means over labels, to which the other labels add the same whatever the cut.
    """
    chosen, others = probabilities >= thresholds, np.arange(len(thresholds)) != label
    told, given = probabilities[:, label], references[:, label]
    if metric == "accuracy":  # only rows that are right in all other labels can become right
        rest_right = (chosen == references)[:, others].all(axis=1)
        values, counts = _sweep(told[rest_right], given[rest_right], np.zeros_like(given[rest_right]), 1, 2)
        return values, counts.exact
    values, counts = _sweep(told, given, np.zeros_like(given), 1, 2)
    right, predicted, truly = counts.right[1:], counts.predicted[1:], counts.given[1:]
    if metric == "f1_micro":
        right = right + (chosen * references)[:, others].sum()
        predicted, truly = predicted + chosen[:, others].sum(), truly + references[:, others].sum()
    return values, score_of(metric, replace(counts, kind="multi", right=right, predicted=predicted, given=truly))


def _of_many_classes(logits: Array, references: Integers, metric: Name) -> Array:
    labels, limit = logits.shape[1], -np.log(EDGE)
    logarithms = np.zeros(labels)  # of the thresholds, which need not add up to 1 until the end
    for _ in range(MOST_PASSES):
        before = logarithms.copy()
        for label in range(labels):
            shifted = logits - logarithms
            shifted[:, label] = -np.inf
            other = shifted.argmax(axis=1)
            margins = logits[:, label] - shifted[np.arange(len(logits)), other]
            values, counts = _sweep(_on_grid(margins, MOST_COUNTS // labels), references, other, label, labels)
            bounds = (max(values[0] - 1, -limit), min(values[-1] + 1, limit))
            logarithms[label] = _best_cut(values, score_of(metric, counts), float(logarithms[label]), bounds)
        if np.array_equal(logarithms, before):
            break
    thresholds = np.exp(logarithms - logarithms.max())
    return np.asarray(thresholds / thresholds.sum())


def _on_grid(values: Array, most: int) -> Array:
    """The values, rounded down to `most` of them where they are more."""
    if len(values) <= most:
        return values
    grid = np.quantile(values, np.linspace(0, 1, most))
    return np.asarray(grid[np.searchsorted(grid, values, side="right") - 1])


def _sweep(scores: Array, references: Integers, other: Integers, label: int, labels: int) -> tuple[Array, Counts]:
    """The distinct scores in order, and the counts at each cut: (labels, cuts), one cut more than distinct scores.

    At cut `c` the rows with the `c` lowest scores are given the label in `other`, the rest `label`.
    """
    values, ranks = np.unique(scores, return_inverse=True)
    cuts = len(values) + 1

    def below(codes: Integers, rows: npt.NDArray[np.bool_]) -> Array:
        places = codes[rows] * cuts + ranks[rows] + 1
        return np.bincount(places, minlength=labels * cuts).reshape(labels, cuts).cumsum(axis=1).astype(np.float64)

    everywhere = np.ones(len(scores), dtype=bool)
    predicted, right = below(other, everywhere), below(other, other == references)
    predicted[label] = len(scores) - predicted.sum(axis=0)
    given = np.bincount(references, minlength=labels).astype(np.float64)[:, None]
    right[label] = given[label] - below(references, references == label)[label]
    return values, Counts("single", right, predicted, given, len(scores), right.sum(axis=0))


def _best_cut(values: Array, scores: Array, before: float, bounds: tuple[float, float]) -> float:
    """The threshold of the best cut; cut `c` is every threshold above value `c - 1` up to value `c`, within bounds."""
    now = scores[np.searchsorted(values, before, side="left")]
    edges = np.clip(np.concatenate([[bounds[0]], values, [bounds[1]]]), *bounds)
    possible = np.diff(edges) > 0
    best = scores[possible].max(initial=-np.inf)
    if best <= now + LEAST_GAIN:
        return before
    good = np.concatenate([[False], possible & (scores >= best - LEAST_GAIN), [False]])
    turns = np.flatnonzero(np.diff(good))  # where ranges of good cuts begin and end
    low, high = edges[turns[::2]], edges[turns[1::2]]
    nearest = np.maximum(low - before, before - high).argmin()
    middle = (low[nearest] + high[nearest]) / 2
    return float(middle if middle > low[nearest] else high[nearest])
