"""Noisy curves of a log and what can be told of them: levels, falls with their bounds, noise.

Medians and ranks throughout: a few bad batches must not decide. Progress is counted in learning rate spent, the sum of
the rates of all steps so far as a share of the whole: under a schedule that ends in 0 the last steps change nothing,
and a curve that is flat there says nothing.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt
from scipy.stats import kendalltau, theilslopes

from hf_finetune.reporting.run_record import RunRecord, curve

Array = npt.NDArray[np.float64]

# Longer logs are averaged to so many points: pairs of points are compared, and the verdict shall not depend on
# train.logging_steps.
MOST_POINTS = 200
BLOCKS = 10
"""Parts of a curve whose medians are compared."""
FEWEST_IN_A_BLOCK = 3
NORMAL_MAD = 1.4826
"""Median absolute deviation -> standard deviation, for normal noise."""
MEDIAN_ERROR = 1.2533
"""Standard error of a median, in those of a mean, for normal noise."""


@dataclass(frozen=True)
class Curve:
    """Finite values of one figure, by step."""

    steps: Array
    values: Array
    spent: Array
    """Learning rate spent where each was measured, from 0 to 1; for a mean over steps, in their middle."""
    of_batches: bool
    """Other rows each time, as in training; a validation loss is always of the same."""

    def __len__(self) -> int:
        return len(self.values)

    def since(self, spent: float) -> Curve:
        """The part after a share of the learning rate was spent."""
        late = self.spent >= spent
        return Curve(self.steps[late], self.values[late], self.spent[late], self.of_batches)

    @property
    def end(self) -> float:
        """Level of the last tenth, three points at least."""
        return float(np.median(self.values[-max(3, len(self) // 10) :]))


@dataclass(frozen=True)
class Fall:
    """How much a part of a curve fell, by the slope of all its pairs of points (Theil-Sen)."""

    size: float
    least: float
    most: float
    """Bounds at 90 %."""
    p: float
    """Of no fall, one-sided (Kendall's rank test)."""


def train_curve(run: RunRecord) -> Curve:
    """The training loss; each value is a mean over the steps since the one before."""
    steps, values = _finite(run, "loss")
    before = np.concatenate([[0.0], steps[:-1]])
    return _thinned(Curve(steps, values, _spent(run, (before + steps) / 2), of_batches=True))


def validation_curve(run: RunRecord) -> Curve:
    steps, values = _finite(run, "eval_loss")
    return _thinned(Curve(steps, values, _spent(run, steps), of_batches=False))


def fall(part: Curve) -> Fall | None:
    """Of a part of three points at least, in which learning rate was spent."""
    if len(part) < 3 or np.ptp(part.spent) == 0:
        return None
    extent = float(np.ptp(part.spent))
    slope, _, low, high = theilslopes(part.values, part.spent, alpha=0.9)
    p = kendalltau(part.spent, part.values, alternative="less").pvalue if np.ptp(part.values) else 1.0
    return Fall(-float(slope) * extent, -float(high) * extent, -float(low) * extent, float(p))


def noise(values: Array) -> float:
    """Standard deviation of what differs from one point to the next, a steady slope aside."""
    if len(values) < 3:
        return 0.0
    jumps = np.diff(values)
    return float(NORMAL_MAD * np.median(np.abs(jumps - np.median(jumps))) / np.sqrt(2))


def blocks(of: Curve) -> tuple[Array, Array, float]:
    """Medians of up to ten equal parts, the step at which each part begins, and the standard error of a median."""
    count = max(1, min(BLOCKS, len(of) // FEWEST_IN_A_BLOCK))
    parts = np.array_split(of.values, count)
    starts = np.array([part[0] for part in np.array_split(of.steps, count)])
    error = MEDIAN_ERROR * noise(of.values) / np.sqrt(min(len(part) for part in parts))
    return np.array([np.median(part) for part in parts]), starts, float(error)


def learning_rates(run: RunRecord) -> tuple[Array, Array]:
    """Steps and the learning rate logged there."""
    return _finite(run, "learning_rate")


def _finite(run: RunRecord, figure: str) -> tuple[Array, Array]:
    points: Any = np.array(curve(run, figure), dtype=np.float64).reshape(-1, 2)
    points = points[np.isfinite(points[:, 1])]
    return points[:, 0], points[:, 1]


def _spent(run: RunRecord, at: Array) -> Array:
    steps, rates = learning_rates(run)
    if len(steps) == 0 or rates.max() <= 0:
        rates, steps = np.ones(1), np.ones(1) * at.max(initial=1.0)  # each step counts the same
    steps = np.concatenate([[0.0], steps])
    total = np.concatenate([[0.0], np.cumsum(np.diff(steps) * np.maximum(rates, 0.0) / rates.max())])
    spent: Array = np.interp(at, steps, total / max(total[-1], 1e-12))
    return spent


def _thinned(full: Curve) -> Curve:
    if len(full) <= MOST_POINTS:
        return full
    edges = np.linspace(0, len(full), MOST_POINTS + 1).astype(int)

    def means(values: Array) -> Array:
        return np.add.reduceat(values, edges[:-1]) / np.diff(edges)

    return Curve(means(full.steps).round(), means(full.values), means(full.spent), full.of_batches)
