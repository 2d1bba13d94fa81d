"""Axis scales: position of a value, ticks at round values, and tick labels."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import pairwise

# From this ratio of highest to lowest on, a linear scale hides the lower part.
MIN_LOG_RATIO = 30.0
# Outside this range a value is not a measurement, and the arithmetic here would overflow.
SMALLEST, LARGEST = 1e-100, 1e100
# Approximate number of ticks; the x axis has room for fewer on a phone.
TICKS, TICKS_ACROSS = 5, 4


@dataclass(frozen=True)
class Scale:
    """Maps values to positions in [0, 1], linearly or by their logarithm."""

    low: float
    high: float
    log: bool = False

    def share(self, value: float) -> float:
        if self.log:
            return math.log(value / self.low) / math.log(self.high / self.low)
        return (value - self.low) / (self.high - self.low)


def fit_scale(values: Sequence[float], *, from_zero: bool) -> Scale:
    """A scale that holds all values with a margin; logarithmic where they are positive and range widely."""
    # 2 to 4 -> 1.88 to 4.12, and from zero 0 to 4.2; 0.1 to 10 -> logarithmic; a constant 3 -> 2.7 to 3.3
    low, high = min(values), max(values)
    if low > SMALLEST and high / low > MIN_LOG_RATIO and not from_zero:
        return Scale(low / 1.1, high * 1.1, log=True)
    if from_zero and low >= 0:
        return Scale(0.0, high * 1.05 if high > SMALLEST else 1.0)
    spread, size = high - low, max(abs(low), abs(high))
    if size < SMALLEST:
        return Scale(-1.0, 1.0)
    room = 0.06 * spread if spread > 1e-6 * size else 0.1 * size
    return Scale(low - room, high + room)


def compute_linear_ticks(scale: Scale, about: int = TICKS) -> list[float]:
    """Multiples of 1, 2 or 5 times a power of ten inside the scale, `about` as many as asked for."""
    # 0 to 23 in about 5 -> a step of 4.6, nearest to 5 -> 0, 5, 10, 15, 20
    rough = (scale.high - scale.low) / about
    power = 10.0 ** math.floor(math.log10(rough))
    step = min((factor * power for factor in (1, 2, 5, 10)), key=lambda each: abs(math.log(each / rough)))
    first, last = math.ceil(scale.low / step - 1e-9), math.floor(scale.high / step + 1e-9)
    return [number * step for number in range(first, last + 1)]


def compute_log_ticks(scale: Scale) -> list[float]:
    """Powers of ten inside the scale, with 2 and 5 times them if that makes no more than seven ticks."""
    # 0.5 to 40 -> 0.5, 1, 2, 5, 10, 20; 1e-5 to 1e3 -> every second power: 1e-5, 1e-3, 0.1, 10, 1000
    exponents = range(math.floor(math.log10(scale.low)), math.ceil(math.log10(scale.high)) + 1)
    inside = [
        [factor * 10.0**exponent for exponent in exponents for factor in factors if _is_inside(factor, exponent, scale)]
        for factors in ((1, 2, 5), (1,))
    ]
    ticks = inside[0] if len(inside[0]) <= TICKS + 2 else inside[1]
    return ticks[:: math.ceil(len(ticks) / (TICKS + 2))]


def _is_inside(factor: int, exponent: int, scale: Scale) -> bool:
    return scale.low <= factor * 10.0**exponent <= scale.high


def label_ticks(ticks: Sequence[float], *, log: bool = False) -> list[tuple[float, str]]:
    """(tick, label) with as many decimals as distinguish the ticks; in scientific notation if very large or small."""
    # 0, 0.5, 1 -> "0.0", "0.5", "1.0"; 0, 5e-5, 1e-4 -> "0", "5e-5", "0.0001"
    if log:
        return [(tick, f"{tick:,g}" if 1e-3 <= tick < 1e6 else _format_power(tick)) for tick in ticks]
    largest = max(abs(tick) for tick in ticks) if ticks else 0.0
    apart = min((b - a for a, b in pairwise(ticks)), default=largest)
    if 0 < largest < 1e-3 or largest >= 1e6:
        return [(tick, _format_power(tick)) for tick in ticks]
    decimals = max(0, -math.floor(math.log10(apart) + 1e-9)) if apart else 0
    # + 0.0 turns -0.0 into 0.0, which would be written "-0".
    return [(tick, f"{tick + 0.0:,.{decimals}f}") for tick in ticks]


def format_x(value: float) -> str:
    """Format an x value: a step as `12,000`, anything else with four digits."""
    return f"{value:,.0f}" if value == round(value) else f"{value:.4g}"


def _format_power(value: float) -> str:
    return f"{value:.3g}".replace("e-0", "e-").replace("e+0", "e")
