"""The geometry of charts, drawn as SVG by the report's template: scales, ticks, and downsampled curves.

Positions are percentages of the plot, so that text keeps its size on a phone and on a desktop. Paths have coordinates
from 0 to 1,000 in both directions and are stretched over the plot. Deterministic: the same points give the same bytes.
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
    compute_linear_ticks,
    compute_log_ticks,
    fit_scale,
    format_x,
    label_ticks,
)

Point = tuple[float, float]

UNITS = 1000
# Pixel columns of a wide plot; of the points in a column only the lowest and the highest are kept.
COLUMNS = 700
# A curve with many points gets a line of medians over it, one for each of this many stretches.
STRETCHES = 50
TREND_FROM = 3 * STRETCHES
TREND_NOTE = "faint: every value that was logged; strong: medians"
# Points of a curve that can be pointed at, and how near, in pixels.
MAX_TARGETS, TARGET_RADIUS = 60, 8.0
# Colors and dashes repeat after this many curves (`.s0` to `.s7` of report.css).
STYLES = 8


@dataclass(frozen=True)
class Series:
    """A curve to draw; a value that is not finite leaves a gap. `style` selects color and dash."""

    name: str
    points: Sequence[Point]
    style: int = 0
    dots: bool = False
    noisy: bool = True
    """Drawn faintly under a line of medians if it has many points."""


@dataclass(frozen=True)
class Mark:
    """A labeled vertical line at a step."""

    x: float
    label: str
    kind: Literal["best", "broken"] = "best"


@dataclass(frozen=True)
class Tick:
    """A grid line with its label."""

    at: float
    """Percent from the left, or from the top."""
    label: str


@dataclass(frozen=True)
class DrawnMark:
    """A `Mark` placed on the plot, `at` in percent from the left."""

    at: float
    label: str
    kind: str
    on_the_left: bool
    row: int
    """Line of the label, so that labels of neighboring marks do not overlap."""


@dataclass(frozen=True)
class Dot:
    """A point with a tooltip; x and y in percent from the left and the top, the radius in pixels."""

    x: float
    y: float
    label: str
    radius: float = 3.5


@dataclass(frozen=True)
class Curve:
    """A line as SVG path data, with its dots; "" is the name of a curve that is left out of the legend."""

    name: str
    path: str
    style: int
    thin: bool
    dots: tuple[Dot, ...]
    targets: tuple[Dot, ...] = ()
    """Invisible, with the logged value as a tooltip: a page without scripts has no other."""


@dataclass(frozen=True)
class Chart:
    """Everything that the template's macro `chart` draws."""

    title: str
    said: str
    """The text alternative for screen readers."""
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
        """The named curves; the faint curve under a trend has no name."""
        return tuple(curve for curve in self.curves if curve.name)


def make_line_chart(
    title: str,
    series: Sequence[Series],
    *,
    marks: Sequence[Mark] = (),
    x_label: str = "step",
    from_zero: bool = False,
) -> Chart | None:
    """Curves over a common x axis; None where there is no finite value.

    The y axis is logarithmic, as the title then says, where the values are positive and range widely.
    """
    drawn = [each for each in series if any(_is_finite(point) for point in each.points)]
    if not drawn:
        return None
    values = [y for each in drawn for x, y in each.points if -LARGEST < y < LARGEST]
    across = _make_x_scale(drawn)
    up = fit_scale(values, from_zero=from_zero)
    lines = tuple(curve for each in drawn for curve in _draw_curves(each, across, up))
    return Chart(
        title=f"{title} (logarithmic)" if up.log else title,
        said=" ".join(_describe_series(each) for each in drawn),
        x_label=x_label,
        curves=lines,
        x_ticks=tuple(
            Tick(_to_percent(across.share(tick)), format_x(tick)) for tick in compute_linear_ticks(across, TICKS_ACROSS)
        ),
        y_ticks=tuple(
            Tick(_to_percent(1 - up.share(tick)), label)
            for tick, label in label_ticks(compute_log_ticks(up) if up.log else compute_linear_ticks(up), log=up.log)
        ),
        marks=_place_marks(marks, across),
        note=TREND_NOTE if any(curve.thin for curve in lines) else "",
    )


def make_reliability_chart(split: str, points: Sequence[Point], sizes: Sequence[int]) -> Chart:
    """A reliability diagram: accuracy (y) by confidence (x) of each bin, with the diagonal of perfect calibration.

    `points[i]` is (confidence, accuracy) of a bin with `sizes[i]` rows.
    """
    unit = Scale(0.0, 1.0)
    labels = [f"{rows:,} rows: confidence {x:.2f}, right {y:.1%}" for (x, y), rows in zip(points, sizes, strict=True)]
    dots = tuple(
        Dot(_to_percent(x), _to_percent(1 - y), label, _compute_radius(rows, sizes))
        for (x, y), label, rows in zip(points, labels, sizes, strict=True)
    )
    ticks = [0.0, 0.25, 0.5, 0.75, 1.0]
    return Chart(
        title=f"{split}: confidence, and how often it was right",
        said="; ".join(labels) + ".",
        x_label="confidence",
        curves=(
            Curve("as confident as right", _format_path([(0.0, 0.0), (1.0, 1.0)], unit, unit), 1, True, ()),
            Curve("this model, larger for more rows", "", 0, False, dots),
        ),
        x_ticks=tuple(Tick(_to_percent(tick), f"{tick:g}") for tick in ticks),
        y_ticks=tuple(Tick(_to_percent(1 - tick), f"{tick:.0%}") for tick in ticks),
        marks=(),
        square=True,
    )


def _compute_radius(rows: int, sizes: Sequence[int]) -> float:
    """Radius in pixels; the area grows with the number of rows."""
    # bins of 100 and 25 rows: a quarter of the rows is half of the radius -> 10.0 and 6.5, of which 3 are the minimum
    return round(3 + 7 * math.sqrt(rows / max(1, *sizes)), 1)


def thin_points(points: Sequence[Point], across: Scale) -> list[Point]:
    """Downsample to the lowest and the highest point of each pixel column, so that no spike is lost.

    A column with a value that is not finite keeps one of these too, and with it the gap in the curve.
    """
    # 5,000 points -> 700 columns of about 7, of which two are kept: 1,401 with the last point. Every seventh point
    # instead would lose six of seven spikes.
    if len(points) <= 2 * COLUMNS:
        return list(points)
    kept: list[Point] = []
    for _, held in groupby(points, key=lambda point: int(across.share(point[0]) * COLUMNS)):
        column = list(held)
        finite = [point for point in column if _is_finite(point)]
        ends = {min(finite, key=_get_y), max(finite, key=_get_y)} if finite else set()
        broken = next((point for point in column if not _is_finite(point)), None)
        kept += sorted(ends if broken is None else ends | {broken}, key=lambda point: point[0])
    return kept


def compute_trend(points: Sequence[Point]) -> list[Point]:
    """(median x, median y) of 50 equal stretches; [] for a curve with few points, which needs no trend."""
    finite = list(filter(_is_finite, points))
    if len(finite) < TREND_FROM:
        return []
    ends = [round(number * len(finite) / STRETCHES) for number in range(STRETCHES + 1)]
    stretches = [finite[start:end] for start, end in pairwise(ends)]
    return [(median(x for x, _ in stretch), median(y for _, y in stretch)) for stretch in stretches]


def _make_x_scale(series: Iterable[Series]) -> Scale:
    values = [x for each in series for x, _ in each.points]
    low, high = min(values), max(values)
    return Scale(low, high) if high > low else Scale(low - 1, high + 1)


def _draw_curves(series: Series, across: Scale, up: Scale) -> list[Curve]:
    style = series.style % STYLES
    smooth = compute_trend(series.points) if series.noisy else []
    finite = list(filter(_is_finite, series.points))
    few = _place_dots(series.name, finite, across, up) if series.dots and len(finite) <= STRETCHES else ()
    targets = () if few else _place_dots(series.name, _spread(finite, MAX_TARGETS), across, up, TARGET_RADIUS)
    path = _format_path(thin_points(series.points, across), across, up)
    if not smooth:
        return [Curve(series.name, path, style, False, few, targets)]
    trend = Curve(series.name, _format_path(smooth, across, up), style, False, few, targets)
    return [Curve("", path, style, True, ()), trend]


def _place_dots(
    name: str, points: Sequence[Point], across: Scale, up: Scale, radius: float = Dot.radius
) -> tuple[Dot, ...]:
    return tuple(
        Dot(_to_percent(across.share(x)), _to_percent(1 - up.share(y)), f"{name}, {format_x(x)}: {y:.4g}", radius)
        for x, y in points
    )


def _spread(points: Sequence[Point], most: int) -> list[Point]:
    """At most so many of the points, evenly spread, with the first and the last."""
    if len(points) <= most:
        return list(points)
    return [points[round(number * (len(points) - 1) / (most - 1))] for number in range(most)]


def _format_path(points: Iterable[Point], across: Scale, up: Scale) -> str:
    """SVG path data. A single point between gaps is a line of length 0, visible by its round cap."""
    # (0, 0), (0.5, 1), (0.7, nan), (1, 1) on scales from 0 to 1 -> "M0 1000L500 0" and "M1000 0L1000 0"; y grows down
    parts = []
    for finite, stretch in groupby(points, key=_is_finite):
        if finite:
            pairs = [f"{across.share(x) * UNITS:.0f} {(1 - up.share(y)) * UNITS:.0f}" for x, y in stretch]
            parts.append(f"M{'L'.join(pairs if len(pairs) > 1 else pairs * 2)}")
    return "".join(parts)


def _place_marks(marks: Sequence[Mark], across: Scale) -> tuple[DrawnMark, ...]:
    inside = sorted((mark for mark in marks if 0 <= across.share(mark.x) <= 1), key=lambda mark: mark.x)
    return tuple(
        DrawnMark(_to_percent(share := across.share(mark.x)), mark.label, mark.kind, share > 0.5, row)
        for row, mark in enumerate(inside)
    )


def _describe_series(series: Series) -> str:
    finite = list(filter(_is_finite, series.points))
    (first, start), (last, end) = finite[0], finite[-1]
    lowest, highest = min(finite, key=_get_y), max(finite, key=_get_y)
    name = series.name[:1].upper() + series.name[1:]
    said = f"{name}: {start:.4g} at {format_x(first)}, {end:.4g} at {format_x(last)}"
    ends = f"lowest {lowest[1]:.4g} at {format_x(lowest[0])}, highest {highest[1]:.4g} at {format_x(highest[0])}"
    broken = len(series.points) - len(finite)
    return f"{said}; {ends}" + (f"; {broken:,} values are not finite." if broken else ".")


def _to_percent(share: float) -> float:
    return round(100 * share, 2)


def _get_y(point: Point) -> float:
    return point[1]


def _is_finite(point: Point) -> bool:
    return -LARGEST < point[1] < LARGEST  # of NaN neither is true
