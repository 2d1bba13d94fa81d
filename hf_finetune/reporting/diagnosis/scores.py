"""Diagnose what was compared: better or worse than the base or the baselines, and whether it forgot."""

from __future__ import annotations

from typing import Any

from hf_finetune.metric_info import get_metric_info
from hf_finetune.reporting.diagnosis.findings import Finding
from hf_finetune.reporting.files import get_part
from hf_finetune.reporting.run_record import RunRecord
from hf_finetune.reporting.verdict import judge_model

MAX_NAMED = 4


def judge_scores(run: RunRecord) -> list[Finding]:
    """A finding on the comparison with the base, and one on forgetting if there was any."""
    evaluation = run.report.get("evaluation")
    scores = evaluation.get("test") if isinstance(evaluation, dict) else None
    found = scores if isinstance(scores, dict) else {}
    return [_judge_comparison(found), *_judge_forgetting(found)]


def judge_model_finding(run: RunRecord) -> list[Finding]:
    """[a finding on the model that a run has trained, beside base or baselines]; [] where nothing was compared."""
    judged = judge_model(run.report)
    if judged is None or judged.outcome == "alone":
        return []
    evidence = f"On {judged.split}, on the same rows: the scores have every figure, and its interval where one holds."
    title = judged.sentence.partition(":")[0].removesuffix(".")  # the figures stand in the verdict
    if judged.outcome == "better":
        return [_make_finding("model_better", "good", title, evidence, "Look at the samples.")]
    if judged.outcome == "none":
        remedy = "More rows, of training or to score, more steps, or a higher train.learning_rate may show one."
        return [_make_finding("model_no_better", "note", title, evidence, remedy)]
    remedy = "Lower train.learning_rate, train for fewer epochs or with an adapter; look at the rows: are they alike?"
    return [_make_finding("model_worse", "problem", title, evidence, remedy)]


def _judge_comparison(scores: dict[str, Any]) -> Finding:
    rows, compared = scores.get("rows", "some"), get_part(scores, "comparison")
    if not compared:
        title, evidence = "The model was scored", f"On {rows} rows, without another model beside it."
        return _make_finding(
            "scored", "good", title, evidence, "Set eval.base to see whether tuning has made it better."
        )
    better, worse = _list_significant(compared, 1), _list_significant(compared, -1)
    base = compared.get("base", "its base")
    parts = [f"better in {better}" if better else "", f"worse in {worse}" if worse else ""]
    said = " and ".join(part for part in parts if part) or "no different, as far as these rows show"
    evidence = f"On {rows} rows it is, beside {base}, {said}."
    if worse and not better:
        return _make_finding(
            "scored", "warning", f"The model is worse than {base}", evidence, "Train with other settings."
        )
    title = f"The model is better than {base}" if better else f"No real difference to {base} was found"
    title += ", and worse in part" if better and worse else ""
    return _make_finding("scored", "good", title, evidence, "Where an interval is too wide to tell, score more rows.")


def _judge_forgetting(scores: dict[str, Any]) -> list[Finding]:
    part = get_part(scores, "forgetting")
    worse = _list_significant(part, -1)
    if not worse:
        return []
    evidence = (
        f"On {part.get('rows', 'the')} rows of {part.get('data', 'what it could do before')} it is worse in {worse}."
    )
    remedy = "Lower train.learning_rate, train for fewer epochs or with an adapter, or mix such rows into data.train."
    return [_make_finding("forgot", "warning", "It forgot what it could do before", evidence, remedy)]


def _list_significant(part: dict[str, Any], sign: int) -> str:
    """Titles of the metrics that changed significantly, for the better (`sign` 1) or the worse (-1)."""
    figures = part.get("figures")
    names = []
    for name, each in (figures if isinstance(figures, dict) else {}).items():
        direction = {"higher": 1, "lower": -1, "neither": 0}[get_metric_info(name).better]
        real = isinstance(each, dict) and each.get("real") is True and isinstance(each.get("difference"), int | float)
        if real and each["difference"] * direction * sign > 0:
            names.append(get_metric_info(name).title)
    more = f" and {len(names) - MAX_NAMED} more" if len(names) > MAX_NAMED else ""
    return ", ".join(names[:MAX_NAMED]) + more


def _make_finding(kind: str, level: Any, title: str, evidence: str, remedy: str) -> Finding:
    grave = level in ("warning", "problem")
    cause = "The difference is more than these rows would give by chance." if grave else ""
    return Finding(kind=kind, level=level, title=title, evidence=evidence, cause=cause, remedy=remedy)
