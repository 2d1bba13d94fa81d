"""The geometry of charts, which the page draws as SVG: scales, ticks, and curves thinned to what can be seen.

Positions are percentages of the plot, so that a chart fills a phone and a desktop with letters of the same size.
Paths are in a square of 1,000 by 1,000 that is stretched over the plot. The same points give the same chart, letter
for letter.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from itertools import groupby, pairwise
from statistics import median
from typing import Literal

from hf_finetune.reporting.charts.scales import (
    LARGEST,
    TICKS_ACROSS,
    Scale,
    fitting_scale,
    labelled,
    linear_ticks,
    log_ticks,
    plain,
)

Point = tuple[float, float]

UNITS = 1000
# As many columns as a wide plot has pixels; of the points of a column the lowest and the highest are kept.
COLUMNS = 700
# A curve with more points gets a line of medians over it, one of each of so many stretches: what noise hides.
STRETCHES = 50
TREND_FROM = 3 * STRETCHES
TREND_NOTE = "faint: every value that was logged; strong: medians"
# Colours and dashes repeat after so many curves.
STYLES = 8


@dataclass(frozen=True)
class Series:
    """A curve to draw; a value that is not finite leaves a gap. `style` chooses colour and dash."""

    name: str
    points: Sequence[Point]
    style: int = 0
    dots: bool = False
    noisy: bool = True
    """Drawn under a line of medians, where there are many points."""


@dataclass(frozen=True)
class Mark:
    """A vertical line across the plot with a word beside it."""

    x: float
    label: str
    kind: Literal["best", "broken"] = "best"


@dataclass(frozen=True)
class Tick:
    at: float
    """Per cent from the left, or from the top."""
    label: str


@dataclass(frozen=True)
class DrawnMark:
    at: float
    label: str
    kind: str
    on_the_left: bool
    row: int
    """Labels of marks that lie close together go below one another."""


@dataclass(frozen=True)
class Dot:
    x: float
    y: float
    label: str
    radius: float = 3.5


@dataclass(frozen=True)
class Curve:
    name: str
    path: str
    style: int
    thin: bool
    dots: tuple[Dot, ...]


@dataclass(frozen=True)
class Chart:
    """A chart, drawn by the template's `chart`."""

    title: str
    said: str
    """What it shows, in words."""
    x_label: str
    curves: tuple[Curve, ...]
    x_ticks: tuple[Tick, ...]
    y_ticks: tuple[Tick, ...]
    marks: tuple[DrawnMark, ...]
    note: str = ""
    square: bool = False
    kind: Literal["chart"] = "chart"

    @property
    def legend(self) -> tuple[Curve, ...]:
        """The curves to tell apart, where there are several; what a trend is drawn over has no name."""
        named = tuple(curve for curve in self.curves if curve.name)
        return named if len(named) > 1 else ()


def line_chart(
    title: str,
    series: Sequence[Series],
    *,
    marks: Sequence[Mark] = (),
    x_label: str = "step",
    from_zero: bool = False,
) -> Chart | None:
    """Curves over a common x; None where there is no finite value at all.

    A scale by powers of ten is chosen, and said in the title, where the values are positive and range widely.
    """
    drawn = [each for each in series if any(_finite(point) for point in each.points)]
    if not drawn:
        return None
    values = [y for each in drawn for x, y in each.points if _finite((x, y))]
    across = _x_scale(drawn)
    up = fitting_scale(values, from_zero=from_zero)
    lines = tuple(curve for each in drawn for curve in _curves(each, across, up))
    return Chart(
        title=f"{title} (logarithmic)" if up.log else title,
        said=" ".join(_in_words(each) for each in drawn),
        x_label=x_label,
        curves=lines,
        x_ticks=tuple(Tick(_percent(across.share(tick)), plain(tick)) for tick in linear_ticks(across, TICKS_ACROSS)),
        y_ticks=tuple(
            Tick(_percent(1 - up.share(tick)), label)
            for tick, label in labelled(log_ticks(up) if up.log else linear_ticks(up), log=up.log)
        ),
        marks=_drawn_marks(marks, across),
        note=TREND_NOTE if any(curve.thin for curve in lines) else "",
    )


def reliability_chart(split: str, points: Sequence[Point], sizes: Sequence[int]) -> Chart:
    """How often what had a confidence was right; the line from corner to corner is where the two are the same."""
    unit = Scale(0.0, 1.0)
    labels = [f"{rows:,} rows: confidence {x:.2f}, right {y:.1%}" for (x, y), rows in zip(points, sizes, strict=True)]
    dots = tuple(
        Dot(_percent(x), _percent(1 - y), label, _radius(rows, sizes))
        for (x, y), label, rows in zip(points, labels, sizes, strict=True)
    )
    ticks = [0.0, 0.25, 0.5, 0.75, 1.0]
    return Chart(
        title=f"{split}: confidence, and how often it was right",
        said="; ".join(labels) + ".",
        x_label="confidence",
        curves=(
            Curve("as confident as right", _path([(0.0, 0.0), (1.0, 1.0)], unit, unit), 1, True, ()),
            Curve("this model, larger for more rows", "", 0, False, dots),
        ),
        x_ticks=tuple(Tick(_percent(tick), f"{tick:g}") for tick in ticks),
        y_ticks=tuple(Tick(_percent(1 - tick), f"{tick:.0%}") for tick in ticks),
        marks=(),
        square=True,
    )


def _radius(rows: int, sizes: Sequence[int]) -> float:
    """An area by the number of rows, never too small to see."""
    return round(3 + 7 * math.sqrt(rows / max(1, *sizes)), 1)


def thinned(points: Sequence[Point], across: Scale) -> list[Point]:
    """At most two points in each pixel column: the lowest and the highest of it, so that no spike is lost.

    A column that holds a value that is not finite keeps one of these as well, and with it the gap.
    """
    if len(points) <= 2 * COLUMNS:
        return list(points)
    kept: list[Point] = []
    for _, held in groupby(points, key=lambda point: int(across.share(point[0]) * COLUMNS)):
        column = list(held)
        finite = [point for point in column if _finite(point)]
        ends = {min(finite, key=_height), max(finite, key=_height)} if finite else set()
        broken = next((point for point in column if not _finite(point)), None)
        kept += sorted(ends if broken is None else ends | {broken}, key=lambda point: point[0])
    return kept


def trend(points: Sequence[Point]) -> list[Point]:
    """The medians of even stretches of a curve with many points, each in the middle of its stretch."""
    finite = [point for point in points if _finite(point)]
    if len(finite) < TREND_FROM:
        return []
    ends = [round(number * len(finite) / STRETCHES) for number in range(STRETCHES + 1)]
    stretches = [finite[start:end] for start, end in pairwise(ends)]
    return [(median(x for x, _ in stretch), median(y for _, y in stretch)) for stretch in stretches]


def _x_scale(series: Iterable[Series]) -> Scale:
    values = [x for each in series for x, _ in each.points]
    low, high = min(values), max(values)
    return Scale(low, high) if high > low else Scale(low - 1, high + 1)


def _curves(series: Series, across: Scale, up: Scale) -> list[Curve]:
    style = series.style % STYLES
    smooth = trend(series.points) if series.noisy else []
    dots = [point for point in series.points if _finite(point)] if series.dots else []
    labels = (f"{series.name}, {plain(x)}: {y:.4g}" for x, y in dots)
    marked = tuple(
        Dot(_percent(across.share(x)), _percent(1 - up.share(y)), label)
        for (x, y), label in zip(dots, labels, strict=True)
    )
    few = marked if len(marked) <= STRETCHES else ()
    path = _path(thinned(series.points, across), across, up)
    if not smooth:
        return [Curve(series.name, path, style, False, few)]
    return [Curve("", path, style, True, ()), Curve(series.name, _path(smooth, across, up), style, False, few)]


def _path(points: Iterable[Point], across: Scale, up: Scale) -> str:
    """SVG path data; a point alone between gaps is a line of no length, which a round cap makes visible."""
    parts = []
    for finite, stretch in groupby(points, key=_finite):
        if finite:
            pairs = [f"{across.share(x) * UNITS:.0f} {(1 - up.share(y)) * UNITS:.0f}" for x, y in stretch]
            parts.append(f"M{'L'.join(pairs if len(pairs) > 1 else pairs * 2)}")
    return "".join(parts)


def _drawn_marks(marks: Sequence[Mark], across: Scale) -> tuple[DrawnMark, ...]:
    inside = sorted((mark for mark in marks if 0 <= across.share(mark.x) <= 1), key=lambda mark: mark.x)
    return tuple(
        DrawnMark(_percent(share := across.share(mark.x)), mark.label, mark.kind, share > 0.5, row)
        for row, mark in enumerate(inside)
    )


def _in_words(series: Series) -> str:
    finite = [point for point in series.points if _finite(point)]
    (first, start), (last, end) = finite[0], finite[-1]
    lowest, highest = min(finite, key=_height), max(finite, key=_height)
    name = series.name[:1].upper() + series.name[1:]
    said = f"{name}: {start:.4g} at {plain(first)}, {end:.4g} at {plain(last)}"
    ends = f"lowest {lowest[1]:.4g} at {plain(lowest[0])}, highest {highest[1]:.4g} at {plain(highest[0])}"
    broken = len(series.points) - len(finite)
    return f"{said}; {ends}" + (f"; {broken:,} values are not finite." if broken else ".")


def _percent(share: float) -> float:
    return round(100 * share, 2)


def _height(point: Point) -> float:
    return point[1]


def _finite(point: Point) -> bool:
    return math.isfinite(point[1]) and abs(point[1]) < LARGEST
