"""Diagnose a run by its log: what went wrong, the evidence for it, and the next setting to try.

findings.py    a finding: what, evidence, what to try
curves.py      curves of a log, and how noisy they are
divergence.py  losses that explode
overfitting.py  training and validation that part
progress.py    plateaus, rates that are too low, runs that were too short
rows.py        what the rows tell
scores.py      what the scores tell
setup.py       what the settings tell
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import asdict, dataclass
from typing import Any

from hf_finetune.metric_info import parse_number, say_count
from hf_finetune.reporting.diagnosis.curves import (
    Curve,
    estimate_fall,
    estimate_noise,
    read_train_curve,
    read_validation_curve,
)
from hf_finetune.reporting.diagnosis.divergence import MIN_POINTS, judge_divergence, judge_rise_and_back, judge_stop
from hf_finetune.reporting.diagnosis.findings import LEVELS, Finding, fmt, format_setting, get_train_setting
from hf_finetune.reporting.diagnosis.overfitting import judge_overfitting
from hf_finetune.reporting.diagnosis.progress import judge_progress
from hf_finetune.reporting.diagnosis.rows import judge_rows
from hf_finetune.reporting.diagnosis.scores import judge_model_finding, judge_scores
from hf_finetune.reporting.diagnosis.setup import judge_setup, judge_warmup
from hf_finetune.reporting.run_record import RunRecord, get_selection_metric
from hf_finetune.reporting.verdict import judge_model

__all__ = ["Diagnosis", "Finding", "diagnose"]

MIN_STEPS = 10
"""Fewer optimizer steps say nothing about a setting."""
MIN_FALL = 3.0
"""Standard deviations of the noise by which a curve must have fallen."""


OVERFITTED = ("overfitting", "memorized")


@dataclass(frozen=True)
class Diagnosis:
    """All findings of a run, the worst first, and the verdict."""

    verdict: str
    """A few sentences, shown first: on the model, then on the log."""
    findings: tuple[Finding, ...]
    model: str = ""
    """The sentence of `verdict` on the model, with which it begins; "" where nothing was compared."""

    def as_dict(self) -> dict[str, Any]:
        return {
            "verdict": self.verdict,
            "model": self.model,
            "findings": [asdict(finding) for finding in self.findings],
        }


def diagnose(run: RunRecord) -> Diagnosis:
    """Diagnose a run by its history, and by its settings, data and scores where it has them.

    There is at least one finding: `good` (or `note`: too short to judge) where nothing is wrong.
    """
    if run.report.get("recipe") == "score":  # nothing was trained
        found = judge_scores(run)
        return _open_with_model(run, " ".join(each.evidence for each in found), reversed(found))
    train, validation = read_train_curve(run), read_validation_curve(run)
    found = _judge_curves(run, train, validation)
    setup = judge_setup(run)
    if any(each.kind == "divergence" and each.level == "problem" for each in found):
        # A higher limit for the gradients of a run that exploded would be the wrong thing to try.
        setup = [each for each in setup if each.kind != "clipping_every_step"]
    found += setup + judge_rows(run, overfitted=any(each.kind in OVERFITTED for each in found))
    if not any(each.level in ("problem", "warning") for each in found):
        found.append(_judge_length(run, train, validation) or _make_healthy_finding(run, train, validation))
    found.sort(key=lambda finding: LEVELS.index(finding.level))
    verdict = _write_verdict(run, tuple(found))
    found = [*judge_model_finding(run), *found]
    return _open_with_model(run, verdict, sorted(found, key=lambda finding: LEVELS.index(finding.level)))


def _judge_curves(run: RunRecord, train: Curve, validation: Curve) -> list[Finding]:
    """What the losses tell: nothing else of a run that diverged, and no fall of one whose rate was still rising."""
    if (diverged := judge_divergence(run, train, validation)) is not None:
        return [diverged]
    warming = judge_warmup(run)
    judge = judge_progress if warming is None else judge_overfitting
    progress = judge(run, train, validation)
    if progress is not None and progress.kind == "plateau" and progress.step is None:
        return [progress]  # nothing was learned: what rose and fell again is noise
    stopped = judge_stop(run)
    if run.status == "running" or stopped is not None:
        warming = None  # it goes on, or has a better reason to have ended
    found = [stopped, warming, judge_rise_and_back(run, train), progress]
    return [each for each in found if each]


def _open_with_model(run: RunRecord, verdict: str, findings: Iterable[Finding]) -> Diagnosis:
    """The model is judged first, its log second."""
    judged = judge_model(run.report)
    model = judged.sentence if judged is not None and judged.outcome != "alone" else ""
    return Diagnosis(f"{model} {verdict}".strip(), tuple(findings), model)


def _judge_length(run: RunRecord, train: Curve, validation: Curve) -> Finding | None:
    """A note on a log too short to judge: too few steps or points, or no fall beyond the noise."""
    few = len(train) < MIN_POINTS and len(validation) < 3
    if not few and run.step >= MIN_STEPS and (_has_fallen(train) or _has_fallen(validation)):
        return None
    of_train, of_validation = say_count(len(train), "training loss"), say_count(len(validation), "validation loss")
    points = f"{of_train} and {of_validation} are in the log"
    title, cause = "The log is too short to judge the run by", "Few points, or too few steps."
    if not few and run.step >= MIN_STEPS:
        title, cause = (
            "The loss fell no further than its noise",
            "Few points, small batches, or a rate that is too low.",
        )
    if not run.history:
        title = "Nothing was logged on the way" if run.step else "There is no training log"
        cause = "Fewer steps than lie between two log lines." if run.step else "No step was taken, or none is recorded."
    return Finding(
        kind="too_short_to_say",
        level="note",
        title=title,
        evidence=f"{points}, over {say_count(run.step, 'step')}.{_describe_mean_loss(run)}",
        cause=cause,
        remedy=_advise_more_points(run, train, validation),
    )


def _advise_more_points(run: RunRecord, train: Curve, validation: Curve) -> str:
    """What would give a log to judge by: nothing that the run has done already."""
    often = format_setting(run, "logging_steps", max(1, run.step // 20))
    ways = [
        f"log more often ({often})" if len(train) < min(run.step, MIN_POINTS) or not run.step else "",
        "" if len(validation) else "evaluate on a validation split on the way",
        "train longer",
    ]
    first = ", ".join(way for way in ways[:-1] if way)
    said = f"{first}, or {ways[-1]}" if first else ways[-1]
    return f"{said[0].upper()}{said[1:]}."


def _describe_mean_loss(run: RunRecord) -> str:
    """A sentence on the mean loss of all steps, which is known where no step was logged; else ""."""
    train = run.report.get("train")
    loss = parse_number(train.get("loss")) if isinstance(train, dict) else None
    return "" if loss is None or run.history else f" The mean training loss of all steps was {fmt(loss)}."


def _has_fallen(whole: Curve) -> bool:
    found = estimate_fall(whole)
    return found is not None and (
        found.least > 0 or whole.values[0] - whole.end > MIN_FALL * estimate_noise(whole.values)
    )


def _make_healthy_finding(run: RunRecord, train: Curve, validation: Curve) -> Finding:
    ways = [
        f"{name} loss{{}} from {fmt(curve.logged[0])} to {fmt(curve.logged[1])}"
        for name, curve in (("training", train), ("validation", validation))
        if len(curve) > 1
    ]
    said = [way.format("" if number else " went") for number, way in enumerate(ways)]
    return Finding(
        kind="healthy",
        level="good",
        title="The run looks healthy",
        evidence=f"The {', the '.join(said)}.{_describe_unseen(run, validation)}{_describe_saved_weights(run)}",
        cause="Nothing in the log is out of the ordinary.",
        remedy=f"Look at the scores and samples; then try more data{_advise_more_steps(validation)}.",
    )


def _advise_more_steps(validation: Curve) -> str:
    """`, or more steps` unless validation had stopped to fall."""
    late = estimate_fall(validation.since(0.5))
    return "" if late is not None and late.size <= 0 else ", or more steps"


def _describe_unseen(run: RunRecord, validation: Curve) -> str:
    """A sentence on what fewer than two evaluations on the way cannot show; else ""."""
    if len(validation) > 1:
        return ""
    evaluation = run.report.get("evaluation")
    scored = len(validation) or (isinstance(evaluation, dict) and evaluation.get("validation"))
    if not scored and run.status == "running" and get_train_setting(run, "eval_strategy") not in (None, "no"):
        return ""  # it is still to come
    when = "Validation was scored only once" if scored else "There was no validation"
    return f" {when}, so that overfitting could not be seen."


def _describe_saved_weights(run: RunRecord) -> str:
    """A sentence on the saved weights if they are those of an earlier checkpoint; else ""."""
    metric = get_selection_metric(run)
    if metric is None or run.best_step is None or run.best_step >= run.step:
        return ""
    return f" The saved model is that of {run.best_checkpoint}, the best by {metric}."


def _write_verdict(run: RunRecord, findings: tuple[Finding, ...]) -> str:
    """How far an unfinished run got, the worst finding with its remedy, and the titles of the next two."""
    first = _describe_progress(run)
    grave = [each for each in findings if each.level in ("problem", "warning")]
    leading = grave[0] if grave else findings[-1]
    others = [each.title[0].lower() + each.title[1:] for each in grave[1:3]]
    then = f" Also: {'; '.join(others)}." if others else ""
    advice = leading.evidence if leading.level == "good" else leading.remedy
    return " ".join([*first, f"{leading.title}.", advice]) + then


def _describe_progress(run: RunRecord) -> list[str]:
    """[a sentence on how far an unfinished run got]; [] of a finished one."""
    reached = f"step {run.step:,}" + (f" of {run.max_steps:,}" if run.max_steps else "")
    if run.status == "running":
        return [f"The run is not finished: it is at {reached}." if run.history else "The run has logged nothing yet."]
    if run.status == "stopped" and not run.history and run.ended_by:
        return [f"The run was ended by {run.ended_by} before a loss was logged."]
    if run.status == "stopped" and not run.history:
        return ["The run did not finish, and neither a log nor a checkpoint tells how far it got."]
    if not run.unfinished and (run.max_steps is None or run.step >= run.max_steps):
        return []
    cause = f", ended by {run.ended_by}" if run.ended_by else ""
    return [f"The run stopped at {reached}{cause}."] if run.history else []
