"""What a run of `score` comes to: better or worse than the model beside it, and whether it forgot."""

from __future__ import annotations

from typing import Any

from hf_finetune.metric_info import figure
from hf_finetune.reporting.diagnosis.findings import Finding
from hf_finetune.reporting.run_record import RunRecord

MOST_NAMED = 4


def judge_scores(run: RunRecord) -> list[Finding]:
    """One finding on the comparison with the base, and one on what was forgotten, where these were asked for."""
    evaluation = run.report.get("evaluation")
    scores = evaluation.get("test") if isinstance(evaluation, dict) else None
    found = scores if isinstance(scores, dict) else {}
    return [_compared(found), *_forgotten(found)]


def _compared(scores: dict[str, Any]) -> Finding:
    rows, compared = scores.get("rows", "some"), _part(scores, "comparison")
    if not compared:
        title, evidence = "The model was scored", f"On {rows} rows, without another model beside it."
        return _finding("scored", "good", title, evidence, "Set eval.base to see whether tuning has made it better.")
    better, worse = _real(compared, 1), _real(compared, -1)
    base = compared.get("base", "its base")
    parts = [f"better in {better}" if better else "", f"worse in {worse}" if worse else ""]
    said = " and ".join(part for part in parts if part) or "no different, as far as these rows show"
    evidence = f"On {rows} rows it is, beside {base}, {said}."
    if worse and not better:
        return _finding("scored", "warning", f"The model is worse than {base}", evidence, "Train with other settings.")
    title = f"The model is better than {base}" if better else f"No real difference to {base} was found"
    title += ", and worse in part" if better and worse else ""
    return _finding("scored", "good", title, evidence, "Where an interval is too wide to tell, score more rows.")


def _forgotten(scores: dict[str, Any]) -> list[Finding]:
    part = _part(scores, "forgetting")
    worse = _real(part, -1)
    if not worse:
        return []
    evidence = (
        f"On {part.get('rows', 'the')} rows of {part.get('data', 'what it could do before')} it is worse in {worse}."
    )
    remedy = "Lower train.learning_rate, train for fewer epochs or with an adapter, or mix such rows into data.train."
    return [_finding("forgot", "warning", "It forgot what it could do before", evidence, remedy)]


def _part(scores: dict[str, Any], name: str) -> dict[str, Any]:
    part = scores.get(name)
    return part if isinstance(part, dict) else {}


def _real(part: dict[str, Any], sign: int) -> str:
    """The figures that have really changed, for the better (1) or for the worse (-1), by name."""
    figures = part.get("figures")
    names = []
    for name, each in (figures if isinstance(figures, dict) else {}).items():
        direction = {"higher": 1, "lower": -1, "neither": 0}[figure(name).better]
        real = isinstance(each, dict) and each.get("real") is True and isinstance(each.get("difference"), int | float)
        if real and each["difference"] * direction * sign > 0:
            names.append(figure(name).title)
    more = f" and {len(names) - MOST_NAMED} more" if len(names) > MOST_NAMED else ""
    return ", ".join(names[:MOST_NAMED]) + more


def _finding(kind: str, level: Any, title: str, evidence: str, remedy: str) -> Finding:
    cause = "The difference is more than these rows would give by chance." if level == "warning" else ""
    return Finding(kind=kind, level=level, title=title, evidence=evidence, cause=cause, remedy=remedy)
