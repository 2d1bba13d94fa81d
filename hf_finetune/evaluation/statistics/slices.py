"""Metrics by slice: for each value of a field of the rows, and the largest gaps between values."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from itertools import combinations
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
from scipy.special import stdtrit

from hf_finetune.data.reading.json_line import format_key, parse_json_object
from hf_finetune.data.reading.row_lines import RowSettings, iterate_row_blocks
from hf_finetune.data.reading.sources import TEXT_FORMATS
from hf_finetune.data.splitting.splits import Splits
from hf_finetune.errors import ConfigError, DataError, Problem, suggest
from hf_finetune.evaluation.statistics.bootstrap import JACKKNIFE_PARTS, Groups, Statistic, number_groups
from hf_finetune.evaluation.statistics.intervals import compute_intervals
from hf_finetune.evaluation.statistics.paired_test import format_number
from hf_finetune.metric_info import ALPHA

Array = npt.NDArray[np.float64]
Rows = npt.NDArray[np.int64]

MAX_VALUES = 50
MAX_NAMES = 20
MIN_SLICE_ROWS = 10
MAX_VALUE_LENGTH = 64
KEY = "eval.by"
MISSING, OTHER = "(missing)", "(other)"


def get_field_values(rows: Sequence[Mapping[str, Any]], field: str, path: str | None = None) -> list[str | None]:
    """Return the value of `field` in each row as text, None in rows without it; a dot names a nested field.

    `meta.language` of {"meta": {"language": "de"}} is "de". Raises `DataError` if no row has the field, or if its
    values are lists, objects or long texts: the report lists the values, and would show the content of the rows.
    """
    found = [_get_nested(row, field.split(".")) for row in rows]
    if all(value is None for value in found):
        names = list(dict.fromkeys(name for row in rows for name in _list_fields(row)))
        remedy = suggest(field, names, f"the fields are {', '.join(map(format_key, names[:MAX_NAMES]))}")
        raise DataError(Problem(f"no row has the field {field}", remedy, path, key=KEY, code="HF024"))
    values = [None if value is None else _format_value(value) for value in found]
    unfit = sum(value is None or len(value) > MAX_VALUE_LENGTH for value, had in zip(values, found, strict=True) if had)
    if unfit:
        kind = f"a list, an object or a text of over {MAX_VALUE_LENGTH} letters"
        what = f"in {unfit:,} of {len(rows):,} rows {field} is {kind}"
        raise DataError(
            Problem(
                what, "name a field with a short value, such as a language or a source", path, key=KEY, code="HF035"
            )
        )
    return values


def _get_nested(row: Any, names: Sequence[str]) -> Any:
    for name in names:
        row = row.get(name) if isinstance(row, Mapping) else None
    return row


def _list_fields(row: Mapping[str, Any], before: str = "") -> list[str]:
    names = []
    for name, value in row.items():
        names += [f"{before}{name}", *(_list_fields(value, f"{before}{name}.") if isinstance(value, Mapping) else [])]
    return names


def _format_value(value: Any) -> str | None:
    if isinstance(value, bool):
        return str(value).lower()  # as JSON writes it
    return str(value) if isinstance(value, str | int | float) else None


def compute_slice_metrics(
    statistic: Statistic,
    values: Sequence[str | None],
    *,
    fewest: int = MIN_SLICE_ROWS,
    groups: Groups | None = None,
) -> dict[str, Any]:
    """Compute the metrics of each value's rows, and the gaps between values: `{"values": ..., "gaps": [...]}`.

    Values are sorted by their number of rows; those of fewer than `fewest` rows have no metrics, and beyond 50 values
    the rest is one slice, `(other)`. A metric that is undefined for a slice is left out. There is one gap for each
    metric: the largest significant one, else the largest; gaps are sorted by their size relative to their interval. The
    95 % intervals hold for all pairs of values at once (Bonferroni); `real` gaps, i.e. significant ones, exclude 0.
    `groups` is the group of each row, (rows,), where rows belong together.
    """
    members = _group_rows(values)
    scored = {value: rows for value, rows in members.items() if len(rows) >= fewest}
    units = np.arange(len(values)) if groups is None else groups
    of_slices = {
        value: _score_slice(statistic, rows, units, len(scored), grouped=groups is not None)
        for value, rows in scored.items()
    }
    listed = {value: {"rows": len(rows), **of_slices.get(value, {})} for value, rows in members.items()}
    compared = {value: rows for value, rows in scored.items() if value != OTHER}
    return {"values": listed, "gaps": _find_gaps(statistic, compared, units) if len(compared) > 1 else []}


def _group_rows(values: Sequence[str | None]) -> dict[str, Rows]:
    """Return the indices of each value's rows, the most frequent value first; the rarest beyond 50 are `(other)`.

    ["de", "fr", "de", None] -> {"de": [0, 2], "(missing)": [3], "fr": [1]}.
    """
    named = np.array([MISSING if value is None else value for value in values], dtype=object)
    counts = Counter(named.tolist())
    order = sorted(counts, key=lambda value: (-counts[value], value))
    if len(order) <= MAX_VALUES:
        return {value: np.flatnonzero(named == value) for value in order}
    kept = order[: MAX_VALUES - 1]
    members = {value: np.flatnonzero(named == value) for value in kept}
    return members | {OTHER: np.flatnonzero(~np.isin(named, kept))}


def _restrict(statistic: Statistic, members: Rows, rows: int) -> Statistic:
    """Make the statistic of the rows `members` out of that of all `rows`: the others have weight 0."""

    def of_slice(weights: Array) -> dict[str, Array]:  # (members, resamples) -> (resamples,) for each metric
        everywhere = np.zeros((rows, weights.shape[1]))
        everywhere[members] = weights
        return statistic(everywhere)

    return of_slice


def _score_slice(statistic: Statistic, members: Rows, units: Groups, slices: int, *, grouped: bool) -> dict[str, Any]:
    """Compute the metrics of the rows `members`, one of as many `slices`; `units`: the group of each row, (rows,)."""
    of_slice = _restrict(statistic, members, len(units))
    point = {name: float(value[0]) for name, value in of_slice(np.ones((len(members), 1))).items()}
    groups = number_groups(units[members]) if grouped else None
    # A statistic of a slice works on all rows, as many times as there are slices.
    found = compute_intervals(of_slice, len(members), labels=4 * slices * len(units) // len(members), groups=groups)
    return {**{name: value for name, value in point.items() if math.isfinite(value)}, **found}


def _find_gaps(statistic: Statistic, slices: dict[str, Rows], units: Groups) -> list[dict[str, Any]]:
    rows = len(units)
    overall = _estimate_errors(statistic, number_groups(units))
    parts = {value: _restrict(statistic, members, rows) for value, members in slices.items()}
    grouped = {value: number_groups(units[members]) for value, members in slices.items()}
    points = {value: part(np.ones((len(slices[value]), 1))) for value, part in parts.items()}
    errors = {value: _estimate_errors(part, grouped[value]) for value, part in parts.items()}
    gaps = []
    for name in overall:
        found = {}
        for value, members in slices.items():
            point = points[value].get(name, np.array([math.nan]))[0]
            # Ten rows that are all correct have a standard error of 0, and would make every gap to them significant.
            # No error is taken to be smaller than that of as many rows drawn from all slices.
            error = max(errors[value].get(name, math.nan), overall[name] * math.sqrt(rows / len(members)))
            if math.isfinite(point) and math.isfinite(error):
                found[value] = (float(point), error, int(grouped[value].max()) + 1)
        if len(found) > 1:
            gaps.append(_find_widest_gap(name, found))
    return sorted(gaps, key=_rank_gap, reverse=True)


def _estimate_errors(part: Statistic, units: Groups) -> dict[str, float]:
    """Estimate standard errors by the jackknife, over at most 200 parts of the rows; NaN where a metric is undefined.

    `units`: the group of each row, (rows,).
    """
    parts = min(int(units.max()) + 1, JACKKNIFE_PARTS)
    kept = (units[:, None] % parts != np.arange(parts)).astype(np.float64)
    with np.errstate(divide="ignore", invalid="ignore"):  # a single group leaves nothing
        left_out = part(kept * (len(units) / kept.sum(axis=0)))
    return {
        name: math.sqrt((parts - 1) * float(np.var(values))) if np.isfinite(values).all() else math.nan
        for name, values in left_out.items()
    }


def _find_widest_gap(name: str, slices: dict[str, tuple[float, float, int]]) -> dict[str, Any]:
    """`slices`: (metric, standard error, rows or groups) of each value."""
    pairs = [sorted(pair, key=lambda value: -slices[value][0]) for pair in combinations(slices, 2)]
    gaps = [_compute_gap(name, slices, high, low, len(pairs)) for high, low in pairs]
    return max(gaps, key=lambda gap: (gap["real"], gap["difference"]))


def _compute_gap(
    name: str, slices: dict[str, tuple[float, float, int]], highest: str, lowest: str, pairs: int
) -> dict[str, Any]:
    (high, high_error, high_rows), (low, low_error, low_rows) = slices[highest], slices[lowest]
    difference, variances = high - low, (high_error**2, low_error**2)
    width = 0.0
    if sum(variances):
        # Welch's t-test: 10 and 40 rows with standard errors 0.1 and 0.05 have 13.9 degrees of freedom.
        parts = variances[0] ** 2 / (high_rows - 1) + variances[1] ** 2 / (low_rows - 1)
        # Bonferroni: of 4 values there are 6 pairs, and each gets the interval for 1 - 0.05 / 6 = 99.2 %.
        quantile = stdtrit(sum(variances) ** 2 / parts, 1 - ALPHA / pairs / 2)
        width = float(quantile) * math.sqrt(sum(variances))
    real = difference > width
    values = f"highest for {highest} ({format_number(high)}), lowest for {lowest} ({format_number(low)})"
    interval = f"{format_number(difference - width)} to {format_number(difference + width)}"
    apart = f"{format_number(difference)} apart ({interval})"
    return {
        "figure": name,
        "highest": highest,
        "lowest": lowest,
        "difference": difference,
        "interval": [difference - width, difference + width],
        "real": real,
        "words": f"{name}: {values}, {apart}: {'a real gap' if real else 'no gap that these rows could show'}",
    }


def _rank_gap(gap: dict[str, Any]) -> tuple[bool, float]:
    """Sort key: significant gaps first, then by size relative to the width of the interval."""
    low, high = gap["interval"]
    return gap["real"], gap["difference"] / (high - low) if high > low else 0.0


def read_raw_rows(splits: Splits, split: str, max_line_bytes: int, key: str) -> Iterator[dict[str, Any]]:
    """Yield each row of `split` as its file has it, in the order of the split.

    Raises `ConfigError`, for the setting `key`, where rows have no fields, or a source is not a local file.
    """
    places = splits.places[split]
    if splits.format in TEXT_FORMATS:
        raise ConfigError(Problem("rows of a text file have no fields", "leave it out", key=key, code="HF622"))
    for place, shown in enumerate(places.files):
        if not Path(shown).expanduser().is_file():
            what = f"{shown} is not a local file, whose rows could be read again"
            raise ConfigError(Problem(what, "save the data set as JSONL and name that", key=key, code="HF036"))
        wanted = set(places.line[places.file == place].tolist())
        path = Path(shown).expanduser()
        for block in iterate_row_blocks(path, shown, RowSettings(max_line_bytes, quiet=True)):
            for line, text in zip(block.line_numbers, block.lines, strict=True):
                if line in wanted:
                    yield parse_json_object(text)
