"""Bootstrap intervals (BCa) of all metrics of a split at once.

Not `scipy.stats.bootstrap`, which resamples the rows themselves and calls the statistic on the copies. Here a resample
is a column of row weights, so that 1,000 resamples of every metric are one matrix product; all metrics share the same
resamples; the jackknife of BCa leaves out groups of rows, where scipy's leaves out one row after the other; and a
resample in which a metric is NaN (an AUC without positives) is left out, where scipy's interval would be NaN.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator
from statistics import NormalDist

import numpy as np
import numpy.typing as npt

Array = npt.NDArray[np.float64]

Statistic = Callable[[Array], dict[str, Array]]
"""Metrics as a function of row weights: (rows, resamples), any non-negative numbers -> (resamples,) for each metric.

Of rows [a, b, c] the weights [2, 0, 1] are the resample [a, a, c]; ones are the rows themselves.
"""

# Weights of one chunk of resamples: 8 MiB.
CHUNK_WEIGHTS = 2**20
# Rows times resamples that take some seconds; with more rows there are fewer resamples, down to FEWEST_RESAMPLES.
MAX_WORK = 2**25
RESAMPLES, MIN_RESAMPLES = 1000, 200
# Share within which two ends of an interval are one number.
SAME = 1e-12
# Groups that the jackknife leaves out in turn.
JACKKNIFE_GROUPS = 100


def bootstrap_intervals(
    statistic: Statistic, rows: int, *, resamples: int = RESAMPLES, level: float = 0.95, seed: int = 0
) -> dict[str, tuple[float, float]]:
    """Compute for each metric of `statistic` an interval that covers its true value with probability `level`.

    All metrics share the same resamples; the ends are bias-corrected and accelerated (BCa: Efron, 1987). A resample in
    which a metric is NaN is left out of its interval, which is NaN if all are. The interval always contains the metric
    of the rows themselves, which for a biased metric, such as the calibration error, may lie outside all resamples. If
    every resample gives the same value the interval has no width: the rows are too few, or all alike.
    """
    random = np.random.default_rng(seed)
    point = statistic(np.ones((rows, 1)))
    drawn = _evaluate(statistic, _draw_resamples(rows, resamples, random))
    left_out = _evaluate(statistic, _leave_out_groups(rows, random))
    return {name: _compute_interval(float(point[name][0]), drawn[name], left_out[name], level) for name in point}


def compute_intervals(statistic: Statistic, rows: int, labels: int = 1) -> dict[str, list[float]]:
    """Compute the 95 % interval of each metric for the report, in some seconds; `labels` is the labels of a row."""
    found = bootstrap_intervals(statistic, rows, resamples=limit_resamples(rows, labels))
    return {name: list(ends) for name, ends in found.items()}


def limit_resamples(rows: int, labels: int) -> int:
    """Return how many resamples take some seconds: 1,000 up to 33,554 rows of one label, and 200 at least."""
    return max(MIN_RESAMPLES, min(RESAMPLES, MAX_WORK // (rows * labels)))


def _draw_resamples(rows: int, resamples: int, random: np.random.Generator) -> Iterator[Array]:
    """Yield the weights of resamples with replacement in chunks, (rows, chunk): how often each row was drawn."""
    # 3 rows: draws [[0, 0, 2], [1, 2, 2]], shifted to [[0, 0, 2], [4, 5, 5]] so that one bincount counts all resamples:
    # [[2, 0, 1], [0, 1, 2]].
    at_once = max(1, CHUNK_WEIGHTS // rows)
    for start in range(0, resamples, at_once):
        number = min(at_once, resamples - start)
        drawn = random.integers(rows, size=(number, rows)) + np.arange(number)[:, None] * rows
        counts = np.bincount(drawn.ravel(), minlength=number * rows).reshape(number, rows)
        yield np.ascontiguousarray(counts.T, dtype=np.float64)


def _leave_out_groups(rows: int, random: np.random.Generator) -> Iterator[Array]:
    """Yield the weights of the jackknife in chunks, (rows, chunk): each column leaves out one random group of rows.

    The other weights are scaled up so that every column adds up to `rows`.
    """
    groups = min(rows, JACKKNIFE_GROUPS)
    if groups == 1:
        yield np.ones((1, 1))  # without its only row nothing would be left
        return
    member = random.permutation(rows) % groups
    at_once = max(1, CHUNK_WEIGHTS // rows)
    for start in range(0, groups, at_once):
        kept = member[:, None] != np.arange(start, min(start + at_once, groups))
        yield kept * (rows / kept.sum(axis=0))


def estimate_errors(statistic: Statistic, rows: int) -> dict[str, float]:
    """Estimate standard errors by the jackknife, over at most 100 groups of rows; NaN where a metric is undefined."""
    groups = min(rows, JACKKNIFE_GROUPS)
    member = np.arange(rows) % groups
    kept = (member[:, None] != np.arange(groups)).astype(np.float64)
    left_out = statistic(kept * (rows / kept.sum(axis=0)))
    return {
        name: math.sqrt((groups - 1) * float(np.var(values))) if np.isfinite(values).all() else math.nan
        for name, values in left_out.items()
    }


def _evaluate(statistic: Statistic, weights: Iterator[Array]) -> dict[str, Array]:
    """Evaluate `statistic` on chunks of weights, (rows, chunk) each; returns (all columns,) for each metric."""
    parts = [statistic(each) for each in weights]
    return {name: np.concatenate([part[name] for part in parts]) for name in parts[0]}


def _compute_interval(point: float, drawn: Array, left_out: Array, level: float) -> tuple[float, float]:
    """BCa interval from a metric of the rows, of their resamples, (resamples,), and of the jackknife, (groups,).

    Without bias and skew the ends are the 2.5 % and 97.5 % quantiles of the resamples. If 60 % of them lie below
    `point` the bias is 0.253, and the ends become the quantiles 7.3 % and 99.3 %.
    """
    drawn, left_out = drawn[~np.isnan(drawn)], left_out[~np.isnan(left_out)]
    if math.isnan(point) or not len(drawn):
        return math.nan, math.nan
    # Resamples equal to `point` count half, or a metric with few values, such as an accuracy over ten rows, would look
    # biased.
    below = float(np.mean(drawn < point) + np.mean(drawn <= point)) / 2
    normal = NormalDist()
    tail = (1 - level) / 2
    ends = [tail, 1 - tail]
    if 0 < below < 1:
        bias, skew = normal.inv_cdf(below), _compute_acceleration(left_out)
        shifted = [bias + normal.inv_cdf(end) for end in ends]
        ends = [normal.cdf(bias + shift / (1 - skew * shift)) for shift in shifted]
    low, high = np.quantile(drawn, ends)
    if math.isclose(low, high, rel_tol=SAME, abs_tol=SAME):  # sums in another order differ in their last digits
        return point, point
    return min(float(low), point), max(float(high), point)


def _compute_acceleration(left_out: Array) -> float:
    """Estimate from the jackknife, (groups,), how fast a metric's standard error grows with its value."""
    off = left_out - left_out.mean() if len(left_out) else left_out
    spread = float((off**2).sum())
    return -float((off**3).sum()) / (6 * spread**1.5) if spread > 1e-18 else 0.0
