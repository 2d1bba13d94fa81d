"""Robust statistics of noisy curves: level, fall with confidence bounds, noise.

Medians and rank tests throughout, so that a few bad batches do not decide. Progress is measured in learning rate spent:
the cumulative learning rate as a share of its total. Under a schedule that decays to 0 the last steps change nothing,
and a curve that is flat there proves nothing.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from hf_finetune.reporting.run_record import RunRecord, get_curve

Array = npt.NDArray[np.float64]

# Longer logs are averaged down to this many points: Theil-Sen and Kendall compare all pairs, which is quadratic, and
# the verdict must not depend on train.logging_steps.
MAX_POINTS = 200
ALPHA = 0.05
"""Significance level of the rank tests."""
MAX_PARTS = 10
"""Equal parts of a curve whose medians are compared."""
MIN_PART_SIZE = 3
NORMAL_MAD = 1.4826
"""Median absolute deviation -> standard deviation, for normal noise: 1 / quantile(3/4)."""
MEDIAN_ERROR = 1.2533
"""Standard error of a median in units of that of the mean, for normal noise: sqrt(pi / 2)."""


@dataclass(frozen=True)
class Curve:
    """Finite values of one logged quantity; all arrays are (points,), sorted by step."""

    steps: Array
    values: Array
    spent: Array
    """Share of the learning rate spent at each point, in [0, 1]; for a mean over steps, in their middle."""
    of_batches: bool
    """Measured on different rows each time (training loss), not on the same ones (validation loss)."""
    logged: tuple[float, float] = (float("nan"), float("nan"))
    """First and last value as they stand in the log: what a sentence says, where `end` decides."""

    def __len__(self) -> int:
        return len(self.values)

    def since(self, spent: float) -> Curve:
        """The part of the curve after this share of the learning rate was spent."""
        late = self.spent >= spent
        return Curve(self.steps[late], self.values[late], self.spent[late], self.of_batches, self.logged)

    @property
    def end(self) -> float:
        """Median of the last tenth, of at least three points: a level to decide by, which no line of the log has."""
        # Losses 4.0, 2.231, 2.91: the level is 2.91, and of 2.2, 2.231, 2.91 it is 2.231, while the log ends at 2.91.
        return float(np.median(self.values[-max(3, len(self) // 10) :]))


@dataclass(frozen=True)
class Fall:
    """How much a curve fell, by its Theil-Sen slope (the median over all pairs of points)."""

    size: float
    least: float
    most: float
    """Bounds of the 90 % confidence interval."""
    p: float
    """p-value of "it does not fall", one-sided (Kendall's tau)."""


def read_train_curve(run: RunRecord) -> Curve:
    """The training loss; each value is the mean over the steps since the previous one."""
    steps, values = _read_finite(run, "loss")
    # Logged at steps 10 and 20, the values belong to steps 5 and 15.
    before = np.concatenate([[0.0], steps[:-1]])
    spent = _compute_spent(run, (before + steps) / 2)
    return _average_points(Curve(steps, values, spent, of_batches=True, logged=_get_ends(values)))


def read_validation_curve(run: RunRecord) -> Curve:
    """The validation loss."""
    steps, values = _read_finite(run, "eval_loss")
    return _average_points(Curve(steps, values, _compute_spent(run, steps), of_batches=False, logged=_get_ends(values)))


def _get_ends(values: Array) -> tuple[float, float]:
    """First and last of `values` (points,); NaN where there are none."""
    return (float(values[0]), float(values[-1])) if len(values) else (float("nan"), float("nan"))


def estimate_fall(part: Curve) -> Fall | None:
    """Estimate how much a curve fell; None for fewer than three points, or if no learning rate was spent.

    Least squares follows a single outlier; Theil-Sen withstands up to 29 % of them.
    """
    from scipy.stats import kendalltau, theilslopes  # a third of a second: not before a run begins

    if len(part) < 3 or np.ptp(part.spent) == 0:
        return None
    # values 4, 3, 2, 1, 0 -> Fall(size=4.0, least=4.0, most=4.0, p=0.008)
    # values 4, 3.1, 9, 1.1, 0 -> size=4.0 in spite of the outlier, but least=-10.0, most=18.0, p=0.12: not sure
    extent = float(np.ptp(part.spent))
    slope, _, low, high = theilslopes(part.values, part.spent, alpha=0.9)
    p = kendalltau(part.spent, part.values, alternative="less").pvalue if np.ptp(part.values) else 1.0
    return Fall(-float(slope) * extent, -float(high) * extent, -float(low) * extent, float(p))


def estimate_noise(values: Array) -> float:
    """Standard deviation of the noise of `values` (points,), estimated from the differences between neighbors.

    A steady slope shifts all differences alike and is removed by their median: (3, 2, 1) has noise 0. The difference of
    two points has twice their variance, hence the sqrt(2).
    """
    if len(values) < 3:
        return 0.0
    jumps = np.diff(values)
    return float(NORMAL_MAD * np.median(np.abs(jumps - np.median(jumps))) / np.sqrt(2))


def compute_part_medians(of: Curve) -> tuple[Array, Array, float]:
    """Medians (parts,) and first steps (parts,) of up to ten equal parts, and the standard error of a median."""
    # values 5, 4, 9, 3, 3, 2 at steps 1 to 6 -> medians [5, 3] from steps [1, 4], standard error 0.76
    count = max(1, min(MAX_PARTS, len(of) // MIN_PART_SIZE))
    parts = np.array_split(of.values, count)
    starts = np.array([part[0] for part in np.array_split(of.steps, count)])
    error = MEDIAN_ERROR * estimate_noise(of.values) / np.sqrt(min(len(part) for part in parts))
    return np.array([np.median(part) for part in parts]), starts, float(error)


def read_learning_rates(run: RunRecord) -> tuple[Array, Array]:
    """Steps (points,) and the learning rate logged at each (points,)."""
    return _read_finite(run, "learning_rate")


def _read_finite(run: RunRecord, figure: str) -> tuple[Array, Array]:
    """Steps (points,) and finite values (points,) of one logged quantity."""
    points: Any = np.array(get_curve(run, figure), dtype=np.float64).reshape(-1, 2)
    points = points[np.isfinite(points[:, 1])]
    return points[:, 0], points[:, 1]


def _compute_spent(run: RunRecord, at: Array) -> Array:
    """Share of the learning rate spent by each step of `at` (points,), in [0, 1] -> (points,)."""
    # Rates 1e-3, 5e-4, 0 logged at steps 10, 20, 30: the first ten steps spend 2/3, the next ten 1/3, the last none.
    # Steps 0, 10, 20, 30 -> 0, 0.67, 1, 1; without logged rates each step counts the same.
    steps, rates = read_learning_rates(run)
    if len(steps) == 0 or rates.max() <= 0:
        rates, steps = np.ones(1), np.ones(1) * at.max(initial=1.0)
    steps = np.concatenate([[0.0], steps])
    total = np.concatenate([[0.0], np.cumsum(np.diff(steps) * np.maximum(rates, 0.0) / rates.max())])
    spent: Array = np.interp(at, steps, total / max(total[-1], 1e-12))
    return spent


def _average_points(full: Curve) -> Curve:
    """`full` with at most 200 points, each the mean of a stretch of neighbors."""
    if len(full) <= MAX_POINTS:
        return full
    edges = np.linspace(0, len(full), MAX_POINTS + 1).astype(int)

    def means(values: Array) -> Array:
        return np.add.reduceat(values, edges[:-1]) / np.diff(edges)

    return Curve(means(full.steps).round(), means(full.values), means(full.spent), full.of_batches, full.logged)
