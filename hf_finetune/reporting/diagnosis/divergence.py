"""Divergence: losses that are not finite, explode, or rise, for good or for a while."""

from __future__ import annotations

import math

import numpy as np

from hf_finetune.folders import NON_FINITE
from hf_finetune.reporting.diagnosis.curves import Curve, compute_part_medians
from hf_finetune.reporting.diagnosis.findings import Finding, fmt, format_rate, format_setting, get_train_setting
from hf_finetune.reporting.run_record import NON_FINITE_ERROR, RunRecord, get_curve

MIN_POINTS = 6
"""Points of the training loss that are needed to judge its shape."""
MIN_STANDARD_ERRORS = 5.0
"""Standard errors that a rise must exceed: the largest of ten parts reaches less than this by chance."""
EXPLOSION = 2.0
"""Multiple of the initial loss that neither batch order nor warm-up reaches."""
SUSTAINED = 3
"""Points that must be that high."""
RISE = 0.5
"""Share of the gain that is lost again: less is a stretch of hard batches."""
RISE_AND_BACK = 0.25
"""The same for a rise that was made up for later."""
SLIGHT = 0.05
"""Share of the loss itself that a rise must exceed."""
NO_FALL = 0.01
"""The same for a loss that rose from its start on, and had gained a fifth of that at most."""
NET = 5.0
NO_WORSE = 0.03
"""A validation loss within this share of its minimum counts as no worse."""


def judge_divergence(run: RunRecord, train: Curve, validation: Curve) -> Finding | None:
    """A finding if the run diverged, by the first test that holds; None if it did not."""
    return (
        _judge_non_finite(run)
        or _judge_zero_gradient(run, train)
        or _judge_explosion(run, train)
        or _judge_late_rise(run, train, validation)
    )


def _judge_non_finite(run: RunRecord) -> Finding | None:
    norms = dict(get_curve(run, "grad_norm"))
    # transformers (5.23) defaults to logging_nan_inf_filter=True, which replaces a loss that is not finite by the mean
    # since the last log entry: 0 at logging_steps=1, where only grad_norm still shows it. Can go when that default
    # does: https://github.com/huggingface/trl/issues/6025
    losses = [(step, value if value else norms.get(step, 0.0)) for step, value in get_curve(run, "loss")]
    losses = [each for each in losses if not math.isfinite(each[1])]
    validation = [each for each in get_curve(run, "eval_loss") if not math.isfinite(each[1])]
    if not losses:
        return _make_validation_finding(validation[0][0], len(validation)) if validation else None
    step = min(losses + validation)[0]
    before = [each for each in get_curve(run, "loss") if each[0] < step]
    last = f" The last before was {fmt(before[-1][1])}, at step {before[-1][0]:,}." if before else ""
    half = "Half precision overflows (bf16=true in place of fp16), or the" if get_train_setting(run, "fp16") else "The"
    return Finding(
        kind="divergence",
        level="problem",
        title=f"The loss is no finite number from step {step:,} on",
        # report.json has null for NaN and infinities alike, a Trainer's log has either: neither is named.
        evidence=f"{len(losses):,} of {len(get_curve(run, 'loss')):,} logged losses are no finite number.{last}",
        cause=f"{half} learning rate is too high, or a batch has no trained token.",
        remedy=_advise_restart(run, 0.1),
        step=step,
    )


def _make_validation_finding(step: int, count: int) -> Finding:
    return Finding(
        kind="divergence",
        level="problem",
        title="The validation loss is no finite number",
        evidence=f"At {count} evaluations, the first at step {step:,}; the training losses are finite.",
        cause="A batch of validation rows has no trained token in it, or half precision overflows there.",
        remedy="Look for validation rows that are cut before their answer, and evaluate in float32.",
        step=step,
    )


def _judge_zero_gradient(run: RunRecord, train: Curve) -> Finding | None:
    """A gradient of exactly 0 in the second half, after a higher loss or a gradient: the weights were thrown away."""
    norms = get_curve(run, "grad_norm")
    late = [value for _, value in norms[len(norms) // 2 :]]
    if len(late) < SUSTAINED or any(late) or len(train) < SUSTAINED:
        return None
    # Only zeros, and never a higher loss, is not divergence: nothing was trainable, or grad_norm was not measured.
    highest = float(train.values.max())
    if highest <= EXPLOSION * train.end and not any(value for _, value in norms):
        return None
    step = next(step for step, value in norms if value == 0.0)
    return Finding(
        kind="divergence",
        level="problem",
        title=f"From step {step:,} on no gradient reaches the weights",
        evidence=f"Its norm is exactly 0, and the loss stays at {fmt(train.end)}, after {fmt(highest)}.",
        cause="A few steps that were far too large have left a model whose output no longer depends on its weights.",
        remedy=_advise_restart(run, 0.1),
        step=step,
    )


def _judge_explosion(run: RunRecord, train: Curve) -> Finding | None:
    """A loss of more than twice that at the start, at three points or more."""
    if len(train) <= SUSTAINED or train.values[0] <= 0:
        return None
    above = train.values > EXPLOSION * train.values[0]
    if above.sum() < SUSTAINED:
        return None
    start, peak = (fmt(float(value)) for value in (train.values[0], train.values.max()))
    step = int(train.steps[above][0])
    return Finding(
        kind="divergence",
        level="problem",
        title=f"The loss exploded by step {step:,}",
        evidence=f"It went from {start} at step {train.steps[0]:,.0f} up to {peak}, and ended at {fmt(train.end)}.",
        cause="The learning rate is far too high, or gradients are not clipped.",
        remedy=_advise_restart(run, 0.1),
        step=step,
    )


def _judge_late_rise(run: RunRecord, train: Curve, validation: Curve) -> Finding | None:
    """A loss that ends far above its minimum, by the medians of ten parts."""
    if len(train) < MIN_POINTS:
        return None
    medians, starts, error = compute_part_medians(train)
    lowest = int(np.argmin(medians))
    gained = max(train.values[0], medians[0]) - medians[lowest]
    rise = medians[-1] - medians[lowest]
    # Medians 4.0, 2.0, 3.5 with standard error 0.1: 1.5 of the gain of 2.0 is lost again, more than half of it,
    # more than 5 % of 2.0 and more than 5 standard errors. It diverged.
    slight = NO_FALL if rise > NET * gained else SLIGHT
    if rise <= max(RISE * gained, slight * abs(medians[lowest]), MIN_STANDARD_ERRORS * error):
        return None
    if len(validation) and validation.values[-1] <= (1 + NO_WORSE) * validation.values.min():
        return None  # harder batches, not a worse model
    step = int(starts[min(lowest + 1, len(starts) - 1)])
    lost = f": {min(1.0, rise / gained):.0%} of what had been gained is lost" if gained > 0 else ""
    return Finding(
        kind="divergence",
        level="problem",
        title=f"The loss rises from about step {step:,} on",
        evidence=f"It was down to {fmt(medians[lowest])} and ended at {fmt(medians[-1])}{lost}.",
        cause="The learning rate is too high, or is kept high for too long, or the data changes on the way.",
        remedy=f"{_advise_restart(run, 0.3)} {format_setting(run, 'lr_scheduler_type', 'cosine')} lets it fall.",
        step=step,
    )


def judge_stop(run: RunRecord) -> Finding | None:
    """A run that was stopped for a loss or gradient that is not finite, or that exploded: its log ends before it."""
    if run.status != "stopped" or run.ended != NON_FINITE_ERROR:
        return None
    return Finding(
        kind="divergence",
        level="problem",
        title=f"The run was stopped for {run.ended_by}",
        evidence=f"{NON_FINITE} has the step and its rows. The last step before was {run.step:,}."
        if (run.folder / NON_FINITE).is_file()
        else f"The last step was {run.step:,}.",
        cause="The learning rate is too high, or values of a row overflow.",
        remedy=_advise_restart(run, 0.1),
        step=run.step,
    )


def judge_rise_and_back(run: RunRecord, train: Curve) -> Finding | None:
    """A loss that rose and fell again: each part is compared with the lowest part before it."""
    if len(train) < MIN_POINTS:
        return None
    medians, starts, error = compute_part_medians(train)
    medians, starts = np.concatenate([train.values[:1], medians]), np.concatenate([train.steps[:1], starts])
    lowest = np.minimum.accumulate(medians)  # 5, 3, 6, 2 -> 5, 3, 3, 2: the third part rose by 3
    rises = medians - lowest
    least = np.maximum(RISE_AND_BACK * (medians[0] - lowest), SLIGHT * np.abs(lowest))
    over = rises > np.maximum(least, MIN_STANDARD_ERRORS * error)
    if not over.any():
        return None
    worst = int(np.argmax(np.where(over, rises, 0.0)))
    return Finding(
        kind="learning_rate_too_high",
        level="warning",
        title=f"The loss rose about step {starts[worst]:,.0f} before it fell again",
        evidence=f"From {fmt(lowest[worst])} it went to {fmt(medians[worst])}, and ended at {fmt(train.end)}.",
        cause="The learning rate is too high at its peak: steps were spent on coming back.",
        remedy=f"Try {format_rate(run, 0.3)}, or a longer warmup_steps.",
        step=int(starts[worst]),
    )


def _advise_restart(run: RunRecord, factor: float) -> str:
    rate, clip = format_rate(run, factor), format_setting(run, "max_grad_norm", 1.0)
    return f"Start again with {rate}, a longer warmup_steps and {clip}."
