"""Scales of a chart's axes: where a value lies, round values to mark, and how these are written."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import pairwise

# A range this wide shows nothing of its lower part on a linear scale.
LOG_FROM = 30.0
# Beyond these a number is no measurement, and arithmetic on it would overflow.
SMALLEST, LARGEST = 1e-100, 1e100
# About so many up; across there is room for fewer on a phone.
TICKS, TICKS_ACROSS = 5, 4


@dataclass(frozen=True)
class Scale:
    """From values to shares of the plot, 0 to 1, by their logarithm where `log`."""

    low: float
    high: float
    log: bool = False

    def share(self, value: float) -> float:
        if self.log:
            return math.log(value / self.low) / math.log(self.high / self.low)
        return (value - self.low) / (self.high - self.low)


def fitting_scale(values: Sequence[float], *, from_zero: bool) -> Scale:
    """One that holds all values with some room, logarithmic where they are positive and range widely."""
    low, high = min(values), max(values)
    if low > SMALLEST and high / low > LOG_FROM and not from_zero:
        return Scale(low / 1.1, high * 1.1, log=True)
    if from_zero and low >= 0:
        return Scale(0.0, high * 1.05 if high > SMALLEST else 1.0)
    spread, size = high - low, max(abs(low), abs(high))
    if size < SMALLEST:
        return Scale(-1.0, 1.0)
    room = 0.06 * spread if spread > 1e-6 * size else 0.1 * size
    return Scale(low - room, high + room)


def linear_ticks(scale: Scale, about: int = TICKS) -> list[float]:
    """Round values (1, 2 or 5 times a power of ten apart) inside the scale."""
    rough = (scale.high - scale.low) / about
    power = 10.0 ** math.floor(math.log10(rough))
    step = min((factor * power for factor in (1, 2, 5, 10)), key=lambda each: abs(math.log(each / rough)))
    first, last = math.ceil(scale.low / step - 1e-9), math.floor(scale.high / step + 1e-9)
    return [number * step for number in range(first, last + 1)]


def log_ticks(scale: Scale) -> list[float]:
    """Powers of ten inside the scale, with 2 and 5 times them between where these are few."""
    exponents = range(math.floor(math.log10(scale.low)), math.ceil(math.log10(scale.high)) + 1)
    inside = [
        [factor * 10.0**exponent for exponent in exponents for factor in factors if _between(factor, exponent, scale)]
        for factors in ((1, 2, 5), (1,))
    ]
    ticks = inside[0] if len(inside[0]) <= TICKS + 2 else inside[1]
    return ticks[:: math.ceil(len(ticks) / (TICKS + 2))]


def _between(factor: int, exponent: int, scale: Scale) -> bool:
    return scale.low <= factor * 10.0**exponent <= scale.high


def labelled(ticks: Sequence[float], *, log: bool = False) -> list[tuple[float, str]]:
    """Ticks with as many decimals as tell them apart; powers of ten where these are many."""
    if log:
        return [(tick, f"{tick:,g}" if 1e-3 <= tick < 1e6 else _power(tick)) for tick in ticks]
    largest = max(abs(tick) for tick in ticks) if ticks else 0.0
    apart = min((b - a for a, b in pairwise(ticks)), default=largest)
    if 0 < largest < 1e-3 or largest >= 1e6:
        return [(tick, _power(tick)) for tick in ticks]
    decimals = max(0, -math.floor(math.log10(apart) + 1e-9)) if apart else 0
    return [(tick, f"{tick + 0.0:,.{decimals}f}") for tick in ticks]


def plain(value: float) -> str:
    return f"{value:,.0f}" if value == round(value) else f"{value:.4g}"


def _power(value: float) -> str:
    return f"{value:.3g}".replace("e-0", "e-").replace("e+0", "e")
