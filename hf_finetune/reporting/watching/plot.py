"""A curve as text: dots in braille, or stars where a terminal has nothing else."""

from __future__ import annotations

import math
from collections.abc import Sequence

# The dots of a braille character by (row, column): https://www.unicode.org/charts/PDF/U2800.pdf
DOTS = ((0x01, 0x08), (0x02, 0x10), (0x04, 0x20), (0x40, 0x80))
BLANK = 0x2800


def plot_curve(values: Sequence[float], width: int, height: int, *, ascii_only: bool = False) -> list[str]:
    """`height` lines of `width` characters, the least value at the bottom; [] without two finite values.

    Of more values than there are dots across, each dot is the mean of its share; what is not finite leaves a gap.
    """
    down, across = (1, 1) if ascii_only else (len(DOTS), len(DOTS[0]))
    points = _stretch(average(values, width * across), width * across)
    known = [value for value in points if math.isfinite(value)]
    if len(known) < 2:
        return []
    low, high = min(known), max(known)
    rows = height * down
    cells = [[0] * width for _ in range(height)]
    before: int | None = None
    for number, value in enumerate(points):
        if not math.isfinite(value):
            before = None
            continue
        # Halved before they are subtracted: the difference of two floats may be none.
        span = high / 2 - low / 2
        y = round((high / 2 - value / 2) / span * (rows - 1)) if span > 0 else rows // 2
        # Where it is steep a column has all rows from that of the column before.
        edge = y if before is None else before + (y > before) - (y < before)
        for row in range(min(y, edge), max(y, edge) + 1):
            cells[row // down][number // across] |= DOTS[row % down][number % across]
        before = y
    if ascii_only:
        return ["".join("*" if cell else " " for cell in line) for line in cells]
    return ["".join(chr(BLANK + cell) for cell in line) for line in cells]


def _stretch(points: list[float], columns: int) -> list[float]:
    """A value for each column, on straight lines between fewer points; NaN beside a gap."""
    # [4, 2] to 3 -> [4, 3, 2]
    if not 1 < len(points) < columns:
        return points
    found = []
    for column in range(columns):
        at, rest = divmod(column * (len(points) - 1), columns - 1)
        share = rest / (columns - 1)
        found.append(points[at] * (1 - share) + points[at + 1] * share if rest else points[at])
    return found


def average(values: Sequence[float], most: int) -> list[float]:
    """At most `most` values: each is the mean of the finite ones of its share, NaN where there are none."""
    # [4, 3, 2, 1] to 2 -> [3.5, 1.5]
    if len(values) <= most:
        return list(values)
    shares = (
        [
            value
            for value in values[part * len(values) // most : (part + 1) * len(values) // most]
            if math.isfinite(value)
        ]
        for part in range(most)
    )
    return [sum(share) / len(share) if share else math.nan for share in shares]
