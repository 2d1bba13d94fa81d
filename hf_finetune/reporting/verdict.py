"""The first sentence on a run: is the model better than what it was made from, or than what needs no model?"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Literal

from hf_finetune.metric_info import (
    HEADLINE_METRICS,
    format_interval,
    format_metric,
    format_size,
    get_metric_info,
    parse_number,
)
from hf_finetune.reporting.files import get_part

FIRST_SPLITS = ("test", "validation")


@dataclass(frozen=True)
class ModelVerdict:
    """Whether a model became better; `sentence` is shown first, wherever a run is shown."""

    outcome: Literal["better", "worse", "none", "alone"]
    """`alone`: there is nothing to compare it with."""
    sentence: str
    split: str = ""


def judge_model(report: Mapping[str, Any]) -> ModelVerdict | None:
    """Judge the model of `report` (report.json) by its base, else by its baselines; None where nothing was compared.

    Test before validation: the latter has chosen checkpoint and thresholds.
    """
    evaluation = get_part(report, "evaluation")
    for judge in (_judge_by_base, _judge_by_baselines):
        for split in sort_splits(evaluation):
            if (found := judge(split, get_part(evaluation, split))) is not None:
                return found
    trained = bool(get_part(report, "train").get("steps"))
    if trained and get_part(report, "settings", "model").get("scratch") is not None:
        return ModelVerdict("alone", "Trained from scratch: there is no base to compare it with.")
    return None


def sort_splits(evaluation: Mapping[str, Any]) -> list[str]:
    """Names of the scored splits: test, validation, then any others."""
    return sorted(evaluation, key=lambda split: FIRST_SPLITS.index(split) if split in FIRST_SPLITS else 2)


def _judge_by_base(split: str, scores: dict[str, Any]) -> ModelVerdict | None:
    compared = get_part(scores, "comparison")
    outcome, verdict = compared.get("outcome"), compared.get("verdict")
    if outcome not in ("better", "worse", "none") or not isinstance(verdict, str):
        return None
    return ModelVerdict(outcome, f"{verdict} ({split}).", split)


def _judge_by_baselines(split: str, scores: dict[str, Any]) -> ModelVerdict | None:
    """Judge by the best baseline: by its paired test, or where there was none by the model's interval."""
    # accuracy 0.64 (0.56 to 0.72), majority 0.17, words 0.92: worse than the words.
    baselines = {name: get_part(scores["baselines"], name) for name in get_part(scores, "baselines")}
    for name in HEADLINE_METRICS:
        sign = {"higher": 1, "lower": -1, "neither": 0}[get_metric_info(name).better]
        values = {each: _get_finite(figures, name) for each, figures in baselines.items()}
        known = {each: value for each, value in values.items() if value is not None}
        own, interval = _get_finite(scores, name), get_part(scores, "intervals").get(name)
        if own is None or not known or not sign:
            continue
        best = max(known, key=lambda each: sign * known[each])
        tested = get_part(baselines[best], "comparison", name)
        low, high = interval if format_interval(name, interval) and isinstance(interval, list | tuple) else (own, own)
        outcome: Literal["better", "worse", "none"] = "none"
        if tested.get("real") is True if tested else not low <= known[best] <= high:
            outcome = "better" if sign * (own - known[best]) > 0 else "worse"
        said = _name_outcome(outcome, behind=sign * (own - known[best]) < 0)
        return ModelVerdict(outcome, f"{said}: {_compare_figures(name, scores, best, known[best])} ({split}).", split)
    return None


def _name_outcome(outcome: str, *, behind: bool) -> str:
    if outcome == "none":
        more = "Behind a baseline, but by no more than chance gives"
        return more if behind else "No better than a baseline, as far as these rows show"
    return "Better than its baselines" if outcome == "better" else "Worse than a baseline"


def _compare_figures(name: str, scores: dict[str, Any], best: str, value: float) -> str:
    """`accuracy 64.0% (56.0% to 72.0%), tfidf logistic regression 92.0%; these rows reliably show 6.1 points`."""
    interval = format_interval(name, get_part(scores, "intervals").get(name))
    own = f"{format_metric(name, scores[name])}{f' ({interval})' if interval else ''}"
    other = f"{best.replace('_', ' ')} {format_metric(name, value)}"
    least = _get_finite(get_part(scores, "baselines", best, "comparison", name), "detectable")
    power = "" if least is None else f"; these rows reliably show {format_size(name, least)}"
    return f"{get_metric_info(name).title} {own}, {other}{power}"


def _get_finite(holder: Mapping[str, Any], name: str) -> float | None:
    value = parse_number(holder.get(name))
    return value if value is not None and math.isfinite(value) else None
