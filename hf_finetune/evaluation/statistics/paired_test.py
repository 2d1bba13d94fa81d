"""Paired test of two models on the same rows: which metrics differ, by how much, and whether significantly.

Every row is scored by both models, so that the difficulty of a row cancels out in the difference.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import numpy.typing as npt

from hf_finetune.evaluation.statistics.bootstrap import (
    CHUNK_WEIGHTS,
    Groups,
    Resampled,
    Statistic,
    compute_interval,
    limit_resamples,
    resample_metrics,
)
from hf_finetune.evaluation.statistics.intervals import find_obstacle, get_tail
from hf_finetune.evaluation.statistics.power import find_detectable_mean
from hf_finetune.metric_info import (
    ALPHA,
    HEADLINE_METRICS,
    MIN_PAIRS,
    find_detectable_share,
    format_metric,
    format_size,
    get_metric_info,
)

Array = npt.NDArray[np.float64]

# Shares of rows that are right or wrong, all rows of a comparison counted.
ROW_SHARES = ("accuracy",)


@dataclass(frozen=True)
class Wording:
    """What the sentences of a comparison call the model compared with, and the rows."""

    other: str = "its base"
    rows: str = "rows"
    """`rows (12 of them answered)` where not all were."""


def compare_models(
    base: Statistic,
    tuned: Statistic,
    both: Statistic,
    rows: int,
    *,
    groups: Groups | None = None,
    seed: int = 0,
    wording: Wording = Wording(),
) -> dict[str, Any]:
    """Compare the metrics of `base` and `tuned`: `outcome`, `verdict`, `figures` by name and `words`, JSON-ready.

    `both` is the same kind of statistic over 2 x `rows` rows: those of the base, then those of the tuned model in the
    same order. A metric that is undefined for one of the two is left out.

    `interval` is that of the difference, tuned minus base, from the same resamples of both; None where too few rows
    decide it. `p_value` is that of a randomization test, in which the two scores of each row are swapped or not: exact
    for few rows, too. With `groups`, (rows,), whole groups are resampled and swapped. The p-value is corrected
    for the number of metrics by step-down maxT (Westfall and Young, 1993), which counts metrics that move together
    (loss and perplexity) as one, where Holm's correction would not. `real`, i.e. significant, differences have a
    corrected p-value of at most 5 % and no interval with 0: of equal models, one comparison in twenty has any.
    `detectable` is the smallest difference that so many rows show in 80 % of cases, None where that cannot be told.
    `verdict` is one sentence on the model, and `outcome` its "better", "worse" or "none".
    """
    figures = compute_paired_metrics(base, tuned, both, rows, groups=groups, seed=seed)
    if groups is not None:  # it is they that count
        wording = replace(wording, rows=f"{wording.rows} in {int(groups.max()) + 1:,} groups")
    words = [f"{_format_change(name, each)}: a real difference" for name, each in figures.items() if each["real"]]
    others = [get_metric_info(name).title for name, each in figures.items() if not each["real"]]
    if others:
        words.append(f"no difference that these {_format_rows(rows, wording.rows)} could show: {', '.join(others)}")
    outcome, verdict = _judge_model(figures, rows, wording)
    return {"outcome": outcome, "verdict": verdict, "figures": figures, "words": words}


def _judge_model(figures: dict[str, dict[str, Any]], rows: int, wording: Wording) -> tuple[str, str]:
    """("better", "worse" or "none", the sentence that says so), by the first headline metric that really differs."""
    # A loss that rose while more tokens are right: "Worse than its base: loss ...; but better in token accuracy".
    gains = {name: _compute_gain(name, each["difference"]) for name, each in figures.items()}
    headline = [name for name in HEADLINE_METRICS if gains.get(name)]
    real = [name for name in headline if figures[name]["real"]]
    if not headline:
        return "none", f"No difference from {wording.other}"
    lead = (real or headline)[0]
    if not real:
        return "none", _describe_no_difference(lead, figures[lead], rows, wording)
    outcome = "better" if gains[lead] > 0 else "worse"
    against = [name for name, each in figures.items() if each["real"] and gains[name] * gains[lead] < 0]
    titles = ", ".join(get_metric_info(name).title for name in against)
    but = f"; but {'worse' if outcome == 'better' else 'better'} in {titles}" if against else ""
    change = _format_change(lead, figures[lead]).replace(": ", " ", 1).replace(f", {outcome} by", ", by")
    power = describe_power(figures[lead], _format_rows(rows, wording.rows))
    return outcome, f"{outcome.capitalize()} than {wording.other}: {change}, a real difference{power}{but}"


def _describe_no_difference(name: str, change: dict[str, Any], rows: int, wording: Wording) -> str:
    """The sentence on a difference that is not real: too few rows for any test, or within what chance gives."""
    counted = _format_rows(rows, wording.rows)
    said, _, interval = _format_change(name, change).replace(": ", " ", 1).partition(" (")
    if rows < MIN_PAIRS:
        few = f"{counted} {'is' if rows == 1 else 'are'} too few to tell it from {wording.other}"
        return f"{few[0].upper()}{few[1:]}: {said} on them, where a test needs {MIN_PAIRS} rows at least"
    ends = change["interval"]
    # Of many figures one is easily so far off that its own interval leaves out 0: the p-value counts them all.
    leaves_out_0 = ends is not None and not ends[0] <= 0 <= ends[1]
    chance = f"p = {change['p_value']:.2g} over all figures" if leaves_out_0 else interval.rstrip(")")
    sure = f" ({chance})" if chance else ""
    power = describe_power(change, counted)
    return f"No real difference from {wording.other}: {said}{sure}, no more than chance gives{power}"


def describe_power(change: dict[str, Any], rows: str) -> str:
    """`; these 80 rows reliably show 0.159 or more`; "" where that is not known."""
    least = change["detectable"]
    return "" if least is None else f"; these {rows} reliably show {format_number(least)} or more"


def measure_forgetting(
    base: Statistic, tuned: Statistic, both: Statistic, rows: int, *, groups: Groups | None = None, seed: int = 0
) -> dict[str, Any]:
    """`compare_models` on rows of another task than the one trained on; its `words` say what was forgotten."""
    figures = compute_paired_metrics(base, tuned, both, rows, groups=groups, seed=seed)
    worse = {
        name: each for name, each in figures.items() if each["real"] and _compute_gain(name, each["difference"]) < 0
    }
    better = any(each["real"] and _compute_gain(name, each["difference"]) > 0 for name, each in figures.items())
    words = [f"on rows it was not trained for, {_format_change(name, each)}: it forgot" for name, each in worse.items()]
    if not words:
        more = "; some of it is better, even" if better else ""
        lead = next((name for name in HEADLINE_METRICS if name in figures), None)
        least = None if lead is None else figures[lead]["detectable"]
        title = get_metric_info(str(lead)).title
        power = "" if least is None else f"; of the {title} they reliably show {format_number(least)} or more"
        words = [f"nothing forgotten that these {_format_rows(rows)} could show{power}{more}"]
    return {"figures": figures, "words": words}


def compute_paired_metrics(
    base: Statistic, tuned: Statistic, both: Statistic, rows: int, *, groups: Groups | None = None, seed: int = 0
) -> dict[str, dict[str, Any]]:
    """Compute `base`, `tuned`, `difference`, `interval`, `p_value`, `real` and `detectable` of each metric.

    See `compare_models`.
    """
    whole = np.ones((rows, 1))
    before, after = ({name: float(value[0]) for name, value in each(whole).items()} for each in (base, tuned))
    names = [name for name in before if name in after and math.isfinite(after[name] - before[name])]

    def difference(weights: Array) -> dict[str, Array]:  # (rows, resamples) -> (resamples,) for each metric
        one, other = base(weights), tuned(weights)
        with np.errstate(invalid="ignore"):  # infinite perplexities
            return {name: other[name] - one[name] for name in names}

    # A swap evaluates `both`, which has twice as many rows, two times: four times the work of a resample of `base`.
    resamples = limit_resamples(rows, labels=4)
    found = resample_metrics(difference, rows, groups=groups, resamples=resamples, seed=seed)
    units = np.arange(rows) if groups is None else groups
    swapped = _draw_swapped_differences(both, units, names, resamples, np.random.default_rng(seed))
    p_values = correct_p_values(np.array([after[name] - before[name] for name in names]), swapped)
    number, levels, figures = int(units.max()) + 1, find_levels(swapped).tolist(), {}
    for name, p_value, level in zip(names, p_values.tolist(), levels, strict=True):
        interval = _find_interval(name, found[name], number, grouped=groups is not None)
        change = after[name] - before[name]
        tested = {"p_value": p_value, "real": p_value <= ALPHA and not (interval and interval[0] <= 0 <= interval[1])}
        least = _find_detectable(name, found[name].error, change, number, level)
        # More than all of a loss or perplexity there is not to lose.
        all_of_it = get_metric_info(name).better == "lower" and least is not None and least >= abs(before[name])
        tested["detectable"] = None if all_of_it else least
        values = {"base": before[name], "tuned": after[name], "difference": change}
        figures[name] = {**values, "interval": interval, **tested}
    return figures


def _find_detectable(name: str, error: float, change: float, rows: int, level: float) -> float | None:
    """Find the smallest difference that `rows`, or groups of them, show; None where they are too few or all alike."""
    if name in ROW_SHARES:
        return find_detectable_share(error, change, rows, level) if math.isfinite(error) else None
    # Rows that all changed by the same have no error but that of rounding.
    return find_detectable_mean(error, rows, level) if error > 1e-9 * abs(change) else None


def find_levels(drawn: Array) -> Array:
    """Return the level at which each metric is tested, (metrics,), given all under no difference, (metrics, draws).

    0.05 for one metric, and for several that are one; less where others may be called different by chance, too.
    """
    spread = np.sqrt(np.square(np.nan_to_num(drawn)).mean(axis=1, keepdims=True))
    far = np.abs(np.nan_to_num(drawn)) / np.where(spread > 0, spread, 1.0)
    if not far.size:
        return np.full(len(drawn), ALPHA)
    critical = np.quantile(far.max(axis=0), 1 - ALPHA)
    levels: Array = np.clip((far >= critical).mean(axis=1), 1 / far.shape[1], ALPHA)
    return levels


def _find_interval(name: str, found: Resampled, units: int, *, grouped: bool) -> list[float] | None:
    """The interval of a difference that can be shown; None where too few rows or groups, of `units`, decide it."""
    if find_obstacle(name, found, units, grouped=grouped):
        return None
    return list(compute_interval(found, tail=get_tail(name)))


def _draw_swapped_differences(
    both: Statistic, units: Groups, names: list[str], swaps: int, random: np.random.Generator
) -> Array:
    """Draw differences under the null hypothesis that it does not matter which model scored a row: (metrics, swaps).

    Rows of the same number in `units`, (rows,), are swapped together.
    """
    # Losses of base [3, 5], tuned [2, 4]: swapping row 2 gives [3, 4] and [2, 5], whose means differ by 0, not by -1.
    parts, number = [], int(units.max()) + 1
    at_once = max(1, CHUNK_WEIGHTS // (2 * len(units)))
    for start in range(0, swaps, at_once):
        swap = random.integers(2, size=(min(at_once, swaps - start), number)).T[units].astype(np.float64)
        sides = [both(np.concatenate(each)) for each in ((1 - swap, swap), (swap, 1 - swap))]
        parts.append(np.stack([sides[1][name] - sides[0][name] for name in names]) if names else np.empty((0, 1)))
    return np.concatenate(parts, axis=1)


def correct_p_values(observed: Array, drawn: Array) -> Array:
    """Return two-sided p-values, (metrics,), of `observed`, (metrics,), among `drawn`, (metrics, draws), corrected.

    Step-down maxT (Westfall and Young, 1993; Ge, Dudoit and Speed, 2003): the share of draws under the null hypothesis
    in which the largest of all metrics is as extreme. The observed one counts as a draw.
    """
    # With one metric, observed 3 among the draws [1, -3, 2]: one draw of three reaches it, p = (1 + 1) / (1 + 3) = 0.5.
    # With several, the most extreme competes with the maximum over all metrics, the next with that over the others.
    drawn = np.nan_to_num(drawn)
    draws = drawn.shape[1] if len(observed) else 0
    spread = np.sqrt((np.square(drawn).sum(axis=1) + np.square(observed)) / (draws + 1))
    spread[spread == 0] = 1.0  # a metric that never differs
    far, far_drawn = np.abs(observed) / spread, np.abs(drawn) / spread[:, None]
    order = np.argsort(-far, kind="stable")
    largest = np.maximum.accumulate(far_drawn[order][::-1], axis=0)[::-1]
    # With few rows many draws equal the observed difference, except for rounding.
    reached = (largest >= far[order, None] * (1 - 1e-9) - 1e-12).sum(axis=1)
    p_values = np.empty(len(observed))
    p_values[order] = np.maximum.accumulate((1 + reached) / (1 + draws))
    return p_values


def _compute_gain(name: str, difference: float) -> float:
    """Positive if the difference is an improvement; 0 for a metric without a better direction."""
    return {"higher": difference, "lower": -difference, "neither": 0.0}[get_metric_info(name).better]


def _format_change(name: str, change: dict[str, Any]) -> str:
    """`loss: 2.31 -> 1.98, better by 0.33 (0.29 to 0.37)`; without an interval where too few rows decide it."""
    difference, ends = change["difference"], change["interval"]
    gain = _compute_gain(name, difference)
    direction = ("higher" if difference > 0 else "lower") if gain == 0 else "better" if gain > 0 else "worse"
    values = f"{_format_value(name, change['base'])} -> {_format_value(name, change['tuned'])}"
    said = f"{get_metric_info(name).title}: {values}, {direction} by {_format_size(name, abs(difference))}"
    if ends is None or ends[0] == ends[1]:
        return said
    low, high = sorted(end * math.copysign(1.0, difference) for end in ends)
    return f"{said} ({_format_end(name, low)} to {_format_end(name, high)})"


def _format_value(name: str, value: float) -> str:
    """A share as tables have it, `93.1%`; three digits of any other metric."""
    return format_metric(name, value) if _is_share(name) else format_number(value)


def _format_size(name: str, size: float) -> str:
    return format_size(name, size) if _is_share(name) else format_number(size)


def _format_end(name: str, size: float) -> str:
    return _format_size(name, size).removesuffix(" points")


def _is_share(name: str) -> bool:
    return get_metric_info(name).style.endswith("%}")


def format_number(value: float) -> str:
    """Format with three significant digits, or all of an integer's: 0.0123, 2.31, 45.6, 12,345; 2.2e+10 from 1e7 on."""
    if abs(value) >= 1e7:
        return f"{value:.2g}"
    if value == 0 or not math.isfinite(value):
        return f"{value + 0:.0f}"  # 0, too, where it is -0.0
    digits = 2 - math.floor(math.log10(abs(value)))
    return f"{value:,.{min(max(digits, 0), 4)}f}"


def _format_rows(rows: int, unit: str = "rows") -> str:
    return f"{rows:,} {unit}" if rows != 1 else f"one {unit.removesuffix('s')}"
