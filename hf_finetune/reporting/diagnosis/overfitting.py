"""Overfitting: a validation loss that rises, or stands still, while the training loss falls on."""

from __future__ import annotations

import math

import numpy as np

from hf_finetune.metric_info import parse_number
from hf_finetune.reporting.diagnosis.curves import ALPHA, Curve, estimate_fall
from hf_finetune.reporting.diagnosis.findings import Finding, Level, fmt, format_setting
from hf_finetune.reporting.files import get_part
from hf_finetune.reporting.run_record import RunRecord, get_selection_metric

MIN_TRAIN_POINTS = 3
MIN_EVALUATIONS = 3
"""Evaluations needed to tell from when on a validation loss stands still."""
OVERFIT = 0.03
"""Share of the lowest validation loss by which it must have risen since: smaller rises come and go."""
OVERFIT_OF_GAIN = 0.05
"""And share of its whole fall: a small bend at the end of a long fall is not overfitting."""
STANDS_STILL = 0.02
"""Share of the lowest validation loss within which it is as good as there."""
GAP = 0.12
"""Share of the validation loss that lies between it and the training loss, and by which the latter fell on."""
GAP_OF_GAIN = 0.15
"""And share of the whole fall: of a loss of 4 that fell to 0.02 and 0.01 the gap is nothing."""
SHARED = 0.25
"""Share of the training loss's fall that validation must have, or the gap grows for the training rows alone."""
WIDE_GAP = 0.5
"""The same share where validation was scored once: from when on it stood still is not known."""
BY_HEART = 0.1
"""Share of the first loss below which training rows that others are far from are known by heart."""
NOT_LEARNED = 0.25
"""Share of the first loss above which rows that were not trained on are not solved."""
EPOCHS = 2
"""Epochs from which a training loss is of rows that were seen before."""


def judge_overfitting(run: RunRecord, train: Curve, validation: Curve) -> Finding | None:
    """The first of these that holds: validation rises, training rows are known by heart, validation stands still."""
    if len(train) < MIN_TRAIN_POINTS:
        return None
    if (risen := _judge_rise(run, train, validation)) is not None or 0 < _count_epochs(run) <= 1:
        return risen  # in the first epoch the training loss, too, is of rows that were never seen before
    return (
        _judge_memorized(run, train, validation)
        or _judge_growing_gap(run, train, validation)
        or _judge_gap_at_end(run, train, validation)
    )


def _judge_rise(run: RunRecord, train: Curve, validation: Curve) -> Finding | None:
    """A validation loss that rises from its minimum on while the training loss keeps falling."""
    best = int(np.argmin(validation.values)) if len(validation) else 0
    after = validation.values[best + 1 :]
    if not len(after):
        return None
    lowest, end = float(validation.values[best]), float(np.median(after[-3:]))
    # Validation 3.0, 2.0, 2.1, 2.4, 2.6: lowest 2.0, end 2.4 (median of the last three). It rose by 0.4, more than 3 %
    # of 2.0 and 5 % of the fall of 1.0. If the training loss is no higher than it was at the minimum: overfitting.
    step = int(validation.steps[best])
    level = _get_level(train, step)
    if end - lowest <= max(OVERFIT * abs(lowest), OVERFIT_OF_GAIN * _get_gain(train, validation)) or train.end > level:
        return None
    evidence = (
        f"The validation loss was lowest at step {step:,}, {fmt(lowest)}, and rose to {fmt(validation.logged[1])}, "
        f"while the training loss went from about {fmt(level)} to about {fmt(train.end)}."
    )
    grave: Level = "warning" if get_selection_metric(run) else "problem"
    return _make_finding(run, "overfitting", grave, f"Overfitting from step {step:,} on", evidence, step)


def _judge_memorized(run: RunRecord, train: Curve, validation: Curve) -> Finding | None:
    """A training loss of next to nothing beside a validation loss that is still a good part of the first loss."""
    first, scored = float(train.values[0]), _get_validation_end(run, validation)
    if scored is None or first <= 0 or train.end > BY_HEART * first or scored < NOT_LEARNED * first:
        return None
    evidence = (
        f"The training loss went from {fmt(train.logged[0])} to {fmt(train.logged[1])}, {train.end / first:.0%} of it, "
        f"and the validation loss is {fmt(scored)}."
    )
    return _make_finding(run, "memorized", "warning", "The training rows are known by heart, others are not", evidence)


def _judge_growing_gap(run: RunRecord, train: Curve, validation: Curve) -> Finding | None:
    """A validation loss that falls no more, or hardly, while the training loss does, and a gap between them."""
    if len(validation) < MIN_EVALUATIONS:
        return None
    end = float(np.median(validation.values[-3:]))
    if end - train.end <= max(GAP * abs(end), GAP_OF_GAIN * _get_gain(train, validation)):
        return None
    return _judge_standstill(run, train, validation, end) or _judge_unshared_fall(run, train, validation, end)


def _judge_standstill(run: RunRecord, train: Curve, validation: Curve, end: float) -> Finding | None:
    """A training loss that fell by a whole gap since validation, now at `end`, was as low as it ever was."""
    lowest = float(validation.values.min())
    settled = int(np.flatnonzero(validation.values <= lowest + STANDS_STILL * abs(lowest))[0])
    # Training 6.71, 4.2, 2.3, 1.2, validation 4.153, 4.151, 4.16, 4.168: it stands still from its first point on, while
    # training fell by 5.5 more, and there are 2.97 between the two, 71 % of 4.168.
    step = int(validation.steps[settled])
    level = _get_level(train, step)
    if level - train.end <= GAP * abs(end):
        return None
    evidence = (
        f"From step {step:,} on the validation loss stood at about {fmt(lowest)}, and ended at "
        f"{fmt(validation.logged[1])}, while the training loss went from about {fmt(level)} to about {fmt(train.end)}."
    )
    title = f"Overfitting: from step {step:,} on only the training loss fell"
    return _make_finding(run, "overfitting", "warning", title, evidence, step)


def _judge_unshared_fall(run: RunRecord, train: Curve, validation: Curve, end: float) -> Finding | None:
    """A training loss that still falls in the second half of the rate, while validation hardly does."""
    # Since step 80 training fell from 2.48 to 2.38 and validation from 2.7646 to 2.7587: six parts of a hundred.
    late = validation.since(0.5)
    theirs = estimate_fall(late)
    ours = None if theirs is None else estimate_fall(train.since(float(late.spent[0])))
    if theirs is None or ours is None or ours.p >= ALPHA or ours.size <= STANDS_STILL * abs(end):
        return None
    if theirs.size >= SHARED * ours.size:
        return None
    step = int(late.steps[0])
    share = f"by {fmt(theirs.size)}" if theirs.size > 0 else "not at all"
    evidence = (
        f"From step {step:,} on the training loss fell by {fmt(ours.size)}, to about {fmt(train.end)}, and the "
        f"validation loss {share}: it ended at {fmt(validation.logged[1])}."
    )
    title = f"Overfitting: from step {step:,} on hardly more than the training loss fell"
    return _make_finding(run, "overfitting", "warning", title, evidence, step)


def _judge_gap_at_end(run: RunRecord, train: Curve, validation: Curve) -> Finding | None:
    """Of rows seen several times, a loss of half that of rows never seen, where too few evaluations show the way."""
    scored = _get_validation_end(run, validation)
    if len(validation) >= MIN_EVALUATIONS or scored is None or _count_epochs(run) < EPOCHS:
        return None
    gain = float(train.values[0]) - train.end
    if scored - train.end <= max(WIDE_GAP * abs(scored), GAP_OF_GAIN * gain):
        return None
    evidence = (
        f"The training loss went from {fmt(train.logged[0])} to {fmt(train.logged[1])}; of validation rows it is "
    )
    title = "Overfitting: the validation loss is far above the training loss"
    return _make_finding(run, "overfitting", "warning", title, f"{evidence}{fmt(scored)}.")


def _get_level(train: Curve, step: int) -> float:
    """The training loss about `step`: the median of the last three points until then, or the first point."""
    until = train.values[train.steps <= step]
    return float(np.median(until[-3:])) if len(until) else float(train.values[0])


def _get_gain(train: Curve, validation: Curve) -> float:
    """How far the validation loss fell, from the first loss of either curve."""
    return float(max(train.values[0], validation.values[0]) - validation.values.min())


def _get_validation_end(run: RunRecord, validation: Curve) -> float | None:
    """The validation loss at the end, from the log or from the scores; None where there is none."""
    if len(validation):
        return float(np.median(validation.values[-3:]))
    scored = parse_number(get_part(run.report, "evaluation", "validation").get("loss"))
    return scored if scored is not None and math.isfinite(scored) else None


def _count_epochs(run: RunRecord) -> float:
    return max((entry["epoch"] for entry in run.history if "epoch" in entry), default=0.0)


def _make_finding(
    run: RunRecord, kind: str, level: Level, title: str, evidence: str, step: int | None = None
) -> Finding:
    epochs = _count_epochs(run)
    return Finding(
        kind=kind,
        level=level,
        title=title,
        evidence=evidence + (f" Each row was seen {epochs:,.0f} times." if epochs >= EPOCHS else ""),
        cause="The training rows are unlike those of validation, or copies of each other: none was seen twice."
        if 0 < epochs <= 1
        else "The model memorizes the training rows: too many epochs, or too large a model, for so few rows.",
        remedy=_advise_fewer_epochs(run) if step is None else _advise_stop(run, step),
        step=step,
    )


def _advise_fewer_epochs(run: RunRecord) -> str:
    """The remedy where no step is known at which it began."""
    epochs = format_setting(run, "num_train_epochs", max(1, round(_count_epochs(run) / 4)))
    return f"Train for fewer epochs ({epochs}), or evaluate on the way and keep the best: " + (
        f"{format_setting(run, 'eval_strategy', 'epoch')} with "
        f"{format_setting(run, 'load_best_model_at_end', True)}. More rows, or a smaller model, reach further."
    )


def _advise_stop(run: RunRecord, step: int) -> str:
    """The remedy for overfitting from `step` on: the settings that would have kept the model of that step."""
    metric = get_selection_metric(run)
    if metric is not None:
        chosen = "" if metric == "loss" else f", the best by {metric}, which need not be the best by its loss"
        kept = f"The saved model is that of {run.best_checkpoint}{chosen}."
        return f"{kept} More rows, or a smaller model, reach further."
    use = f"Use {run.best_checkpoint}, or train" if run.best_checkpoint else "Train"
    patience = format_setting(run, "early_stopping_patience", 3)
    return (
        f"{use} no longer than that: {format_setting(run, 'max_steps', step)}, or "
        f"{format_setting(run, 'load_best_model_at_end', True)} with {patience}. "
        "More rows, or a smaller model, reach further."
    )
