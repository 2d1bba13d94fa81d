"""Two models on the same rows: which figures differ, by how much, and whether the rows can tell.

Every row is scored by both, so that what makes a row hard falls out of the difference.
"""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import numpy.typing as npt

from hf_finetune.evaluation.bootstrap import (
    WEIGHTS_AT_ONCE,
    Statistic,
    affordable_resamples,
    bootstrap_intervals,
)
from hf_finetune.metric_info import figure

Array = npt.NDArray[np.float64]

# Of all differences that are none, the share that may be called real: over all figures together.
FALSE_ALARMS = 0.05


def compare(base: Statistic, tuned: Statistic, both: Statistic, rows: int, *, seed: int = 0) -> dict[str, Any]:
    """The figures of `base` and `tuned` side by side: `{"figures": {name: ...}, "words": [...]}`, JSON-ready.

    `both` is the same kind of statistic over 2 x `rows` rows: those of the base, then those of the tuned model in the
    same order. A figure that is not defined for one of the two is left out.

    `interval` is that of the difference, tuned minus base, over the same resamples of both. `p_value` is that of a
    randomisation test, in which each row's two scores are swapped or not: exact for few rows, too. It is corrected for
    the number of figures by step-down maxT (Westfall and Young, 1993), which takes figures that move together
    (loss and perplexity) as one, where Holm's correction would not. `real` differences have a corrected p-value of at
    most 5 % and an interval without 0: where the models are equal, one of twenty comparisons has any.
    """
    figures = paired_figures(base, tuned, both, rows, seed=seed)
    words = [f"{_change(name, each)}: a real difference" for name, each in figures.items() if each["real"]]
    others = [name for name, each in figures.items() if not each["real"]]
    if others:
        words.append(f"no difference that these {_rows(rows)} could show: {', '.join(others)}")
    return {"figures": figures, "words": words}


def forgetting(base: Statistic, tuned: Statistic, both: Statistic, rows: int, *, seed: int = 0) -> dict[str, Any]:
    """`compare` over rows that were not trained for, whose words say what was forgotten."""
    figures = paired_figures(base, tuned, both, rows, seed=seed)
    worse = {name: each for name, each in figures.items() if each["real"] and _gain(name, each["difference"]) < 0}
    better = any(each["real"] and _gain(name, each["difference"]) > 0 for name, each in figures.items())
    words = [f"on rows it was not trained for, {_change(name, each)}: it forgot" for name, each in worse.items()]
    if not words:
        more = "; some of it is better, even" if better else ""
        words = [f"nothing forgotten that these {_rows(rows)} could show{more}"]
    return {"figures": figures, "words": words}


def paired_figures(
    base: Statistic, tuned: Statistic, both: Statistic, rows: int, *, seed: int = 0
) -> dict[str, dict[str, Any]]:
    """For each figure `base`, `tuned`, `difference`, `interval`, `p_value` and `real`, as `compare` has them."""
    whole = np.ones((rows, 1))
    before, after = ({name: float(value[0]) for name, value in each(whole).items()} for each in (base, tuned))
    names = [name for name in before if name in after and math.isfinite(after[name] - before[name])]

    def difference(weights: Array) -> dict[str, Array]:
        one, other = base(weights), tuned(weights)
        with np.errstate(invalid="ignore"):  # infinite perplexities
            return {name: other[name] - one[name] for name in names}

    resamples = affordable_resamples(rows, labels=4)
    intervals = bootstrap_intervals(difference, rows, resamples=resamples, seed=seed)
    swapped = _swapped_differences(both, rows, names, resamples, np.random.default_rng(seed))
    p_values = corrected_p_values(np.array([after[name] - before[name] for name in names]), swapped)
    figures = {}
    for name, p_value in zip(names, p_values.tolist(), strict=True):
        low, high = intervals[name]
        real = p_value <= FALSE_ALARMS and not low <= 0 <= high
        values = {"base": before[name], "tuned": after[name], "difference": after[name] - before[name]}
        figures[name] = {**values, "interval": [low, high], "p_value": p_value, "real": real}
    return figures


def _swapped_differences(
    both: Statistic, rows: int, names: list[str], swaps: int, random: np.random.Generator
) -> Array:
    """The differences (figures, swaps) that there would be if it did not matter which model a row is of."""
    parts = []
    at_once = max(1, WEIGHTS_AT_ONCE // (2 * rows))
    for start in range(0, swaps, at_once):
        swap = random.integers(2, size=(min(at_once, swaps - start), rows)).T.astype(np.float64)
        sides = [both(np.concatenate(each)) for each in ((1 - swap, swap), (swap, 1 - swap))]
        parts.append(np.stack([sides[1][name] - sides[0][name] for name in names]) if names else np.empty((0, 1)))
    return np.concatenate(parts, axis=1)


def corrected_p_values(observed: Array, drawn: Array) -> Array:
    """Two-sided p-values of `observed` (figures,) against `drawn` (figures, draws), corrected for their number.

    Step-down maxT (Westfall and Young, 1993; Ge, Dudoit and Speed, 2003): of draws under the hypothesis that nothing
    differs, the share in which the largest of all figures is as far out. The observed one counts as a draw.
    """
    drawn = np.nan_to_num(drawn)
    draws = drawn.shape[1] if len(observed) else 0
    spread = np.sqrt((np.square(drawn).sum(axis=1) + np.square(observed)) / (draws + 1))
    spread[spread == 0] = 1.0  # nothing ever differs
    far, far_drawn = np.abs(observed) / spread, np.abs(drawn) / spread[:, None]
    order = np.argsort(-far, kind="stable")
    largest = np.maximum.accumulate(far_drawn[order][::-1], axis=0)[::-1]
    # Equal but for rounding is equal: with few rows many draws are.
    reached = (largest >= far[order, None] * (1 - 1e-9) - 1e-12).sum(axis=1)
    p_values = np.empty(len(observed))
    p_values[order] = np.maximum.accumulate((1 + reached) / (1 + draws))
    return p_values


def _gain(name: str, difference: float) -> float:
    """Above 0 where the difference is for the better; 0 where neither direction is."""
    return {"higher": difference, "lower": -difference, "neither": 0.0}[figure(name).better]


def _change(name: str, figure: dict[str, Any]) -> str:
    """`loss: 2.31 -> 1.98, better by 0.33 (0.29 to 0.37)`."""
    difference, ends = figure["difference"], figure["interval"]
    gain = _gain(name, difference)
    direction = ("higher" if difference > 0 else "lower") if gain == 0 else "better" if gain > 0 else "worse"
    low, high = sorted(end * math.copysign(1.0, difference) for end in ends)
    values = f"{number(figure['base'])} -> {number(figure['tuned'])}"
    return f"{name}: {values}, {direction} by {number(abs(difference))} ({number(low)} to {number(high)})"


def number(value: float) -> str:
    """Three digits, as a person writes them: 0.0123, 2.31, 45.6, 12,345, 2.2e+10."""
    if abs(value) >= 1e7:
        return f"{value:.2g}"
    if value == 0 or not math.isfinite(value):
        return f"{value + 0:.0f}"  # 0, too, where it is -0.0
    digits = 2 - math.floor(math.log10(abs(value)))
    return f"{value:,.{min(max(digits, 0), 4)}f}"


def _rows(rows: int) -> str:
    return f"{rows:,} rows" if rows != 1 else "one row"
