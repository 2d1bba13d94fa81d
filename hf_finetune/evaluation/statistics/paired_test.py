"""Paired test of two models on the same rows: which metrics differ, by how much, and whether significantly.

Every row is scored by both models, so that the difficulty of a row cancels out in the difference.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from hf_finetune.evaluation.statistics.bootstrap import CHUNK_WEIGHTS, Statistic, bootstrap_intervals, limit_resamples
from hf_finetune.metric_info import HEADLINE_METRICS, format_metric, format_size, get_metric_info

Array = npt.NDArray[np.float64]

# Family-wise error rate: the probability of any significant difference between equal models, over all metrics.
ALPHA = 0.05


@dataclass(frozen=True)
class Wording:
    """What the sentences of a comparison call the model compared with, and the rows."""

    other: str = "its base"
    rows: str = "rows"
    """`blocks` where rows were packed."""


def compare_models(
    base: Statistic, tuned: Statistic, both: Statistic, rows: int, *, seed: int = 0, wording: Wording = Wording()
) -> dict[str, Any]:
    """Compare the metrics of `base` and `tuned`: `outcome`, `verdict`, `figures` by name and `words`, JSON-ready.

    `both` is the same kind of statistic over 2 x `rows` rows: those of the base, then those of the tuned model in the
    same order. A metric that is undefined for one of the two is left out.

    `interval` is that of the difference, tuned minus base, from the same resamples of both. `p_value` is that of a
    randomization test, in which the two scores of each row are swapped or not: exact for few rows, too. It is corrected
    for the number of metrics by step-down maxT (Westfall and Young, 1993), which counts metrics that move together
    (loss and perplexity) as one, where Holm's correction would not. `real`, i.e. significant, differences have a
    corrected p-value of at most 5 % and an interval without 0: of equal models, one comparison in twenty has any.
    `verdict` is one sentence on the model, and `outcome` its "better", "worse" or "none".
    """
    figures = compute_paired_metrics(base, tuned, both, rows, seed=seed)
    words = [f"{_format_change(name, each)}: a real difference" for name, each in figures.items() if each["real"]]
    others = [get_metric_info(name).title for name, each in figures.items() if not each["real"]]
    if others:
        words.append(f"no difference that these {_format_rows(rows, wording.rows)} could show: {', '.join(others)}")
    outcome, verdict = _judge_model(figures, _format_rows(rows, wording.rows), wording.other)
    return {"outcome": outcome, "verdict": verdict, "figures": figures, "words": words}


def _judge_model(figures: dict[str, dict[str, Any]], rows: str, other: str) -> tuple[str, str]:
    """("better", "worse" or "none", the sentence that says so), by the first headline metric that really differs."""
    # A loss that rose while more tokens are right: "Worse than its base: loss ...; but better in token accuracy".
    gains = {name: _compute_gain(name, each["difference"]) for name, each in figures.items()}
    headline = [name for name in HEADLINE_METRICS if gains.get(name)]
    real = [name for name in headline if figures[name]["real"]]
    if not headline:
        return "none", f"No difference from {other}"
    lead = (real or headline)[0]
    if not real:
        change = _format_change(lead, figures[lead]).replace(": ", " ", 1)
        return "none", f"No real difference from {other}: {change}, which {rows} cannot tell from chance"
    outcome = "better" if gains[lead] > 0 else "worse"
    against = [name for name, each in figures.items() if each["real"] and gains[name] * gains[lead] < 0]
    titles = ", ".join(get_metric_info(name).title for name in against)
    but = f"; but {'worse' if outcome == 'better' else 'better'} in {titles}" if against else ""
    change = _format_change(lead, figures[lead]).replace(": ", " ", 1).replace(f", {outcome} by", ", by")
    return outcome, f"{outcome.capitalize()} than {other}: {change}, a real difference{but}"


def measure_forgetting(
    base: Statistic, tuned: Statistic, both: Statistic, rows: int, *, seed: int = 0
) -> dict[str, Any]:
    """`compare_models` on rows of another task than the one trained on; its `words` say what was forgotten."""
    figures = compute_paired_metrics(base, tuned, both, rows, seed=seed)
    worse = {
        name: each for name, each in figures.items() if each["real"] and _compute_gain(name, each["difference"]) < 0
    }
    better = any(each["real"] and _compute_gain(name, each["difference"]) > 0 for name, each in figures.items())
    words = [f"on rows it was not trained for, {_format_change(name, each)}: it forgot" for name, each in worse.items()]
    if not words:
        more = "; some of it is better, even" if better else ""
        words = [f"nothing forgotten that these {_format_rows(rows)} could show{more}"]
    return {"figures": figures, "words": words}


def compute_paired_metrics(
    base: Statistic, tuned: Statistic, both: Statistic, rows: int, *, seed: int = 0
) -> dict[str, dict[str, Any]]:
    """Compute `base`, `tuned`, `difference`, `interval`, `p_value` and `real` of each metric; see `compare_models`."""
    whole = np.ones((rows, 1))
    before, after = ({name: float(value[0]) for name, value in each(whole).items()} for each in (base, tuned))
    names = [name for name in before if name in after and math.isfinite(after[name] - before[name])]

    def difference(weights: Array) -> dict[str, Array]:  # (rows, resamples) -> (resamples,) for each metric
        one, other = base(weights), tuned(weights)
        with np.errstate(invalid="ignore"):  # infinite perplexities
            return {name: other[name] - one[name] for name in names}

    # A swap evaluates `both`, which has twice as many rows, two times: four times the work of a resample of `base`.
    resamples = limit_resamples(rows, labels=4)
    intervals = bootstrap_intervals(difference, rows, resamples=resamples, seed=seed)
    swapped = _draw_swapped_differences(both, rows, names, resamples, np.random.default_rng(seed))
    p_values = correct_p_values(np.array([after[name] - before[name] for name in names]), swapped)
    figures = {}
    for name, p_value in zip(names, p_values.tolist(), strict=True):
        low, high = intervals[name]
        real = p_value <= ALPHA and not low <= 0 <= high
        values = {"base": before[name], "tuned": after[name], "difference": after[name] - before[name]}
        figures[name] = {**values, "interval": [low, high], "p_value": p_value, "real": real}
    return figures


def _draw_swapped_differences(
    both: Statistic, rows: int, names: list[str], swaps: int, random: np.random.Generator
) -> Array:
    """Draw differences under the null hypothesis that it does not matter which model scored a row: (metrics, swaps)."""
    # Losses of base [3, 5], tuned [2, 4]: swapping row 2 gives [3, 4] and [2, 5], whose means differ by 0, not by -1.
    parts = []
    at_once = max(1, CHUNK_WEIGHTS // (2 * rows))
    for start in range(0, swaps, at_once):
        swap = random.integers(2, size=(min(at_once, swaps - start), rows)).T.astype(np.float64)
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
    """`loss: 2.31 -> 1.98, better by 0.33 (0.29 to 0.37)`."""
    difference, ends = change["difference"], change["interval"]
    gain = _compute_gain(name, difference)
    direction = ("higher" if difference > 0 else "lower") if gain == 0 else "better" if gain > 0 else "worse"
    low, high = sorted(end * math.copysign(1.0, difference) for end in ends)
    values = f"{_format_value(name, change['base'])} -> {_format_value(name, change['tuned'])}"
    interval = f"{_format_end(name, low)} to {_format_end(name, high)}"
    return f"{get_metric_info(name).title}: {values}, {direction} by {_format_size(name, abs(difference))} ({interval})"


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
