"""Bootstrap intervals (BCa) of all metrics of a split at once.

Not `scipy.stats.bootstrap`, which resamples the rows themselves and calls the statistic on the copies. Here a resample
is a column of row weights, so that 1,000 resamples of every metric are one matrix product; all metrics share the same
resamples; the jackknife of BCa leaves out groups of rows, where scipy's leaves out one row after the other; and a
resample in which a metric is NaN (an AUC without positives) is left out, where scipy's interval would be NaN.

Where rows belong together (several questions about one text, several messages of one customer) what is drawn, and left
out, are the groups: errors of rows that are alike do not cancel (Miller, 2024, "Adding error bars to evals").
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from statistics import NormalDist
from typing import Any, Literal

import numpy as np
import numpy.typing as npt
from scipy.special import stdtrit

Array = npt.NDArray[np.float64]
Groups = npt.NDArray[np.int64]
"""The group of each row, a number from 0 up: (rows,)."""

Tail = Literal["share", "light", "heavy"]
"""What a row may add to a metric: 0 or 1, as to a mean of shares; no more than some times the usual; or anything."""

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
# Times the kurtosis beyond the normal one, what it takes off the freedom of a variance: a half if it were known, but
# that of losses is too small in most samples, which lack the largest rows. By benchmarks/bootstrap_coverage.py, for
# lognormal losses with a spread of 1 to 1.5.
UNSEEN_TAIL = 2.0
# Parts that the jackknife leaves out in turn.
JACKKNIFE_PARTS = 200


@dataclass(frozen=True)
class Resampled:
    """What a metric is for the rows, for their resamples, and without one part of the rows after the other."""

    point: float
    drawn: Array
    """(resamples,) without those in which the metric is NaN."""
    left_out: Array
    """(parts,) likewise."""

    @property
    def carriers(self) -> float:
        """How many rows (groups, parts) decide the metric's error, as if these all moved it alike and no other did.

        Of 200 normally distributed losses about 67; of an accuracy of 95 % of 200 rows about the 10 that are wrong; of
        losses of which one is a hundred times the others 1. 0 where none moves it.
        """
        # n rows whose deviations have the kurtosis k (3 if normal) count as n / k.
        squares = np.square(self._deviations)
        spread = float(np.square(squares.sum()))
        return spread / float(np.square(squares).sum()) if spread > 1e-36 else 0.0

    def estimate_freedom(self, tail: Tail) -> float:
        """Estimate the degrees of freedom of the metric's variance: of normal rows all, of fewer that carry it less."""
        # Satterthwaite (1946): 60 losses of kurtosis 3, as normal ones, have 59; exponential ones, of kurtosis 9 and
        # skew 2, have 59 / (1 + 6 / 2) = 15, and 59 / (1 + 2 * 6) = 4.5 where others may be far larger. What of a
        # variance follows from the value, as that of a share of rows does, BCa's acceleration has: it is taken out,
        # 59 / (1 + (6 - 4) / 2) = 30.
        parts = len(self.left_out)
        excess = parts / max(self.carriers, 1.0) - 3
        followed = parts * (6 * self.acceleration) ** 2 if tail == "share" else 0.0
        lost = UNSEEN_TAIL * excess if tail == "heavy" else (excess - followed) / 2
        return max(1.0, (parts - 1) / (1 + max(0.0, lost)))

    @property
    def variance(self) -> float:
        """The square of the metric's standard error, from the jackknife; 0 where nothing moves it."""
        return (len(self.left_out) - 1) * float(np.var(self.left_out)) if len(self.left_out) else 0.0

    @property
    def error(self) -> float:
        """The metric's standard error."""
        return math.sqrt(self.variance)

    @property
    def acceleration(self) -> float:
        """How fast the metric's standard error grows with its value, from the jackknife (Efron, 1987)."""
        off = self._deviations
        spread = float((off**2).sum())
        return -float((off**3).sum()) / (6 * spread**1.5) if spread > 1e-18 else 0.0

    @property
    def _deviations(self) -> Array:
        return self.left_out - self.left_out.mean() if len(self.left_out) else self.left_out


def bootstrap_intervals(
    statistic: Statistic,
    rows: int,
    *,
    groups: Groups | None = None,
    resamples: int = RESAMPLES,
    level: float = 0.95,
    seed: int = 0,
) -> dict[str, tuple[float, float]]:
    """Compute for each metric of `statistic` an interval that covers its true value with probability `level`.

    All metrics share the same resamples; the ends are bias-corrected and accelerated (BCa: Efron, 1987), and expanded
    for few rows (Hesterberg, 2015). With `groups` whole groups are drawn. A resample in which a metric is NaN is left
    out of its interval, which is NaN if all are. The interval always contains the metric of the rows themselves, which
    for a biased metric may lie outside all resamples. If every resample gives the same value the interval has no width:
    the rows are too few, or all alike. `intervals.py` says which of them can be shown.
    """
    found = resample_metrics(statistic, rows, groups=groups, resamples=resamples, seed=seed)
    return {name: compute_interval(each, level) for name, each in found.items()}


def resample_metrics(
    statistic: Statistic, rows: int, *, groups: Groups | None = None, resamples: int = RESAMPLES, seed: int = 0
) -> dict[str, Resampled]:
    """Compute each metric of the rows, of `resamples` resamples, and without one part of the rows after the other."""
    random = np.random.default_rng(seed)
    units = rows if groups is None else int(groups.max()) + 1
    at_once = max(1, CHUNK_WEIGHTS // rows)
    point = statistic(np.ones((rows, 1)))
    drawn = _evaluate(statistic, _draw_resamples(units, resamples, random, at_once), groups)
    left_out = _evaluate(statistic, _leave_out_parts(units, random, at_once), groups)
    kept = {name: (drawn[name][~np.isnan(drawn[name])], left_out[name][~np.isnan(left_out[name])]) for name in point}
    return {name: Resampled(float(point[name][0]), *kept[name]) for name in point}


def number_groups(values: npt.NDArray[Any]) -> Groups:
    """Number the groups of rows from 0, by their values, (rows,): ["b", "a", "b"] -> [1, 0, 1]."""
    return np.asarray(np.unique(values, return_inverse=True)[1], dtype=np.int64).ravel()


def limit_resamples(rows: int, labels: int) -> int:
    """Return how many resamples take some seconds: 1,000 up to 33,554 rows of one label, and 200 at least."""
    return max(MIN_RESAMPLES, min(RESAMPLES, MAX_WORK // (rows * labels)))


def _draw_resamples(units: int, resamples: int, random: np.random.Generator, at_once: int) -> Iterator[Array]:
    """Yield the weights of resamples with replacement in chunks, (units, chunk): how often each was drawn."""
    # 3 rows: draws [[0, 0, 2], [1, 2, 2]], shifted to [[0, 0, 2], [4, 5, 5]] so that one bincount counts all resamples:
    # [[2, 0, 1], [0, 1, 2]].
    for start in range(0, resamples, at_once):
        number = min(at_once, resamples - start)
        drawn = random.integers(units, size=(number, units)) + np.arange(number)[:, None] * units
        counts = np.bincount(drawn.ravel(), minlength=number * units).reshape(number, units)
        yield np.ascontiguousarray(counts.T, dtype=np.float64)


def _leave_out_parts(units: int, random: np.random.Generator, at_once: int) -> Iterator[Array]:
    """Yield the weights of the jackknife in chunks, (units, chunk): each column leaves out one random part.

    The other weights are scaled up so that every column adds up to `units`.
    """
    parts = min(units, JACKKNIFE_PARTS)
    if parts == 1:
        yield np.ones((1, 1))  # without its only row nothing would be left
        return
    member = random.permutation(units) % parts
    for start in range(0, parts, at_once):
        kept = member[:, None] != np.arange(start, min(start + at_once, parts))
        yield kept * (units / kept.sum(axis=0))


def _evaluate(statistic: Statistic, weights: Iterator[Array], groups: Groups | None) -> dict[str, Array]:
    """Evaluate `statistic` on chunks of weights, (rows or groups, chunk) each; returns (all columns,) per metric."""
    parts = [statistic(each if groups is None else each[groups]) for each in weights]
    return {name: np.concatenate([part[name] for part in parts]) for name in parts[0]}


def compute_interval(found: Resampled, level: float = 0.95, *, tail: Tail = "heavy") -> tuple[float, float]:
    """BCa interval of a metric, expanded by what few rows, or few that decide it, leave unknown of its error.

    Without bias and skew, and with many rows, the ends are the 2.5 % and 97.5 % quantiles of the resamples. If 60 % of
    them lie below `point` the bias is 0.253, and the ends become the quantiles 7.3 % and 99.3 %.
    """
    drawn, point, parts = found.drawn, found.point, len(found.left_out)
    if math.isnan(point) or not len(drawn):
        return math.nan, math.nan
    # Resamples equal to `point` count half, or a metric with few values, such as an accuracy over ten rows, would look
    # biased.
    below = float(np.mean(drawn < point) + np.mean(drawn <= point)) / 2
    normal = NormalDist()
    ends = [(1 - level) / 2, (1 + level) / 2]
    if 0 < below < 1 and parts > 1:
        # Hesterberg (2015, "What teachers should know about the bootstrap"): resamples are too narrow by the root of
        # (n - 1) / n, and normal quantiles by what t has more. How well an error is known depends on the rows that it
        # comes from: 200 losses of which 5 are as large as the others together are 5, not 200.
        freedom = found.estimate_freedom(tail)
        quantile = float(stdtrit(freedom, ends[1])) * math.sqrt(parts / (parts - 1))
        bias, skew = normal.inv_cdf(below), found.acceleration
        ends = [_accelerate(bias + shift, bias, skew) for shift in (-quantile, quantile)]
    low, high = np.quantile(drawn, ends)
    if math.isclose(low, high, rel_tol=SAME, abs_tol=SAME):  # sums in another order differ in their last digits
        return point, point
    return min(float(low), point), max(float(high), point)


def _accelerate(shift: float, bias: float, skew: float) -> float:
    """The probability of BCa's end `shift`, in standard errors from the center; 0 or 1 beyond what the skew allows."""
    slope = 1 - skew * shift
    return NormalDist().cdf(bias + shift / slope) if slope > 0 else float(shift > 0)
