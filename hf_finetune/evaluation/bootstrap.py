"""Intervals for the figures of a split: the same figures of rows drawn from it again."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator
from statistics import NormalDist

import numpy as np
import numpy.typing as npt

Array = npt.NDArray[np.float64]

Statistic = Callable[[Array], dict[str, Array]]
"""Takes how often each row counts in each resample, (rows, resamples), as any numbers that are not negative; gives
figures by name, (resamples,) each."""

# Weights that are worked on at once: 8 MiB.
WEIGHTS_AT_ONCE = 2**20
# What all resamples together may cost: some seconds. Beyond it there are fewer of them, but never fewer than these.
MOST_WORK = 2**25
RESAMPLES, FEWEST_RESAMPLES = 1000, 200
# Groups of rows that are left out in turn, to see how the spread of a figure depends on its value.
JACKKNIFE_GROUPS = 100


def bootstrap_intervals(
    statistic: Statistic, rows: int, *, resamples: int = RESAMPLES, level: float = 0.95, seed: int = 0
) -> dict[str, tuple[float, float]]:
    """For each figure of `statistic` an interval that holds its true value with probability `level`.

    All figures come from the same resamples; the ends are bias-corrected and accelerated (BCa: Efron, 1987). A
    resample in which a figure is NaN does not count for it; the interval is NaN where all are. It always holds the
    figure of the rows themselves, which is biased for some, as the calibration error. Where every resample gives the
    same figure the interval has no width: the rows are too few to say, or all alike.
    """
    random = np.random.default_rng(seed)
    point = statistic(np.ones((rows, 1)))
    drawn = _figures(statistic, _resampled(rows, resamples, random))
    left_out = _figures(statistic, _without_groups(rows, random))
    return {name: _interval(float(point[name][0]), drawn[name], left_out[name], level) for name in point}


def intervals_of(statistic: Statistic, rows: int, labels: int = 1) -> dict[str, list[float]]:
    """The 95 % interval of each figure, as a report has them, in some seconds; `labels` is how many a row has."""
    found = bootstrap_intervals(statistic, rows, resamples=affordable_resamples(rows, labels))
    return {name: list(ends) for name, ends in found.items()}


def affordable_resamples(rows: int, labels: int) -> int:
    """How many resamples of the figures of a split take some seconds: 1,000 if its rows are not very many."""
    return max(FEWEST_RESAMPLES, min(RESAMPLES, MOST_WORK // (rows * labels)))


def _resampled(rows: int, resamples: int, random: np.random.Generator) -> Iterator[Array]:
    at_once = max(1, WEIGHTS_AT_ONCE // rows)
    for start in range(0, resamples, at_once):
        number = min(at_once, resamples - start)
        drawn = random.integers(rows, size=(number, rows)) + np.arange(number)[:, None] * rows
        counts = np.bincount(drawn.ravel(), minlength=number * rows).reshape(number, rows)
        yield np.ascontiguousarray(counts.T, dtype=np.float64)


def _without_groups(rows: int, random: np.random.Generator) -> Iterator[Array]:
    """Weights that leave out one group of rows at a time; the others make up for it, so that all add up to `rows`."""
    groups = min(rows, JACKKNIFE_GROUPS)
    if groups == 1:
        yield np.ones((1, 1))  # nothing would be left
        return
    member = random.permutation(rows) % groups
    at_once = max(1, WEIGHTS_AT_ONCE // rows)
    for start in range(0, groups, at_once):
        kept = member[:, None] != np.arange(start, min(start + at_once, groups))
        yield kept * (rows / kept.sum(axis=0))


def _figures(statistic: Statistic, weights: Iterator[Array]) -> dict[str, Array]:
    parts = [statistic(each) for each in weights]
    return {name: np.concatenate([part[name] for part in parts]) for name in parts[0]}


def _interval(point: float, drawn: Array, left_out: Array, level: float) -> tuple[float, float]:
    drawn, left_out = drawn[~np.isnan(drawn)], left_out[~np.isnan(left_out)]
    if math.isnan(point) or not len(drawn):
        return math.nan, math.nan
    below = float(np.mean(drawn < point) + np.mean(drawn <= point)) / 2
    normal = NormalDist()
    tail = (1 - level) / 2
    ends = [tail, 1 - tail]
    if 0 < below < 1:
        bias, skew = normal.inv_cdf(below), _acceleration(left_out)
        shifted = [bias + normal.inv_cdf(end) for end in ends]
        ends = [normal.cdf(bias + shift / (1 - skew * shift)) for shift in shifted]
    low, high = np.quantile(drawn, ends)
    return min(float(low), point), max(float(high), point)


def _acceleration(left_out: Array) -> float:
    """How fast the spread of a figure grows with its value; 0 where it does not change."""
    off = left_out - left_out.mean() if len(left_out) else left_out
    spread = float((off**2).sum())
    return -float((off**3).sum()) / (6 * spread**1.5) if spread > 1e-18 else 0.0
