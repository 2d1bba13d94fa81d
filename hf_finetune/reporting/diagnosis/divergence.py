"""Losses that rise, for good or for a while, or are no numbers: what too high a learning rate leaves in a log."""

from __future__ import annotations

import math

import numpy as np

from hf_finetune.reporting.diagnosis.curves import Curve, blocks
from hf_finetune.reporting.diagnosis.findings import Finding, number, other_rate, setting, train_setting
from hf_finetune.reporting.run_record import RunRecord, curve

FEWEST_POINTS = 6
"""Of the training loss, to judge its shape by."""
ERRORS = 5.0
"""Standard errors that a rise has to be: with ten parts looked at, chance makes less."""
EXPLOSION = 2.0
"""Times the loss of the start: no batch order or warm-up does that."""
SUSTAINED = 3
"""Points that have to be so high."""
RISE = 0.5
"""Share of what had been gained that is lost again: less is a spell of hard batches."""
RISE_AND_BACK = 0.25
SLIGHT = 0.05
"""Share of the loss itself that a rise has to be."""
NO_WORSE = 0.03
"""Share of the lowest validation loss above it at which the model is still called as good."""


def judge_divergence(run: RunRecord, train: Curve, validation: Curve) -> Finding | None:
    """The one finding on a run whose weights are lost, if they are."""
    return _no_number(run) or _dead(run, train) or _explosion(run, train) or _late_rise(run, train, validation)


def _no_number(run: RunRecord) -> Finding | None:
    norms = dict(curve(run, "grad_norm"))
    # With train.logging_nan_inf_filter, transformers' default, a loss that is no number is logged as 0.
    losses = [(step, value if value else norms.get(step, 0.0)) for step, value in curve(run, "loss")]
    losses = [each for each in losses if not math.isfinite(each[1])]
    validation = [each for each in curve(run, "eval_loss") if not math.isfinite(each[1])]
    if not losses:
        return _validation_alone(validation[0][0], len(validation)) if validation else None
    step, value = min(losses + validation)
    before = [each for each in curve(run, "loss") if each[0] < step]
    last = f" The last before was {number(before[-1][1])}, at step {before[-1][0]:,}." if before else ""
    half = "Half precision overflows (bf16=true in place of fp16), or the" if train_setting(run, "fp16") else "The"
    return Finding(
        kind="divergence",
        level="problem",
        title=f"The loss is no finite number from step {step:,} on",
        evidence=f"It is {value} there, and at {len(losses)} of the logged steps.{last}",
        cause=f"{half} learning rate is too high, or a batch has no trained token.",
        remedy=_start_again(run, 0.1),
        step=step,
    )


def _validation_alone(step: int, count: int) -> Finding:
    return Finding(
        kind="divergence",
        level="problem",
        title="The validation loss is no finite number",
        evidence=f"At {count} evaluations, the first at step {step:,}; the training losses are finite.",
        cause="A batch of validation rows has no trained token in it, or half precision overflows there.",
        remedy="Look for validation rows that are cut before their answer, and evaluate in float32.",
        step=step,
    )


def _dead(run: RunRecord, train: Curve) -> Finding | None:
    """Loss without a gradient, after there was one: the weights were thrown where nothing depends on them."""
    norms = curve(run, "grad_norm")
    late = [value for _, value in norms[len(norms) // 2 :]]
    if len(late) < SUSTAINED or any(late) or len(train) < SUSTAINED:
        return None
    highest = float(train.values.max())
    if highest <= EXPLOSION * train.end and not any(value for _, value in norms):
        return None
    step = next(step for step, value in norms if value == 0.0)
    return Finding(
        kind="divergence",
        level="problem",
        title=f"From step {step:,} on no gradient reaches the weights",
        evidence=f"Its norm is exactly 0, and the loss stays at {number(train.end)}, after {number(highest)}.",
        cause="A few steps that were far too large have left a model whose output no longer depends on its weights.",
        remedy=_start_again(run, 0.1),
        step=step,
    )


def _explosion(run: RunRecord, train: Curve) -> Finding | None:
    if len(train) <= SUSTAINED or train.values[0] <= 0:
        return None
    above = train.values > EXPLOSION * train.values[0]
    if above.sum() < SUSTAINED:
        return None
    start, peak = (number(float(value)) for value in (train.values[0], train.values.max()))
    step = int(train.steps[above][0])
    return Finding(
        kind="divergence",
        level="problem",
        title=f"The loss exploded by step {step:,}",
        evidence=f"It went from {start} at step {train.steps[0]:,.0f} up to {peak}, and ended at {number(train.end)}.",
        cause="The learning rate is far too high, or gradients are not clipped.",
        remedy=_start_again(run, 0.1),
        step=step,
    )


def _late_rise(run: RunRecord, train: Curve, validation: Curve) -> Finding | None:
    if len(train) < FEWEST_POINTS:
        return None
    medians, starts, error = blocks(train)
    lowest = int(np.argmin(medians))
    gained = max(train.values[0], medians[0]) - medians[lowest]
    rise = medians[-1] - medians[lowest]
    if rise <= max(RISE * gained, SLIGHT * abs(medians[lowest]), ERRORS * error):
        return None
    if len(validation) and validation.values[-1] <= (1 + NO_WORSE) * validation.values.min():
        return None  # harder batches, not a worse model
    step = int(starts[min(lowest + 1, len(starts) - 1)])
    lost = f": {min(1.0, rise / gained):.0%} of what had been gained is lost" if gained > 0 else ""
    return Finding(
        kind="divergence",
        level="problem",
        title=f"The loss rises from about step {step:,} on",
        evidence=f"It was down to {number(medians[lowest])} and ended at {number(medians[-1])}{lost}.",
        cause="The learning rate is too high, or is kept high for too long, or the data changes on the way.",
        remedy=f"{_start_again(run, 0.3)} {setting(run, 'lr_scheduler_type', 'cosine')} lets it fall.",
        step=step,
    )


def judge_rise_and_back(run: RunRecord, train: Curve) -> Finding | None:
    """A loss that rose and came back."""
    if len(train) < FEWEST_POINTS:
        return None
    medians, starts, error = blocks(train)
    medians, starts = np.concatenate([train.values[:1], medians]), np.concatenate([train.steps[:1], starts])
    lowest = np.minimum.accumulate(medians)
    rises = medians - lowest
    least = np.maximum(RISE_AND_BACK * (medians[0] - lowest), SLIGHT * np.abs(lowest))
    over = rises > np.maximum(least, ERRORS * error)
    if not over.any():
        return None
    worst = int(np.argmax(np.where(over, rises, 0.0)))
    return Finding(
        kind="learning_rate_too_high",
        level="warning",
        title=f"The loss rose about step {starts[worst]:,.0f} before it fell again",
        evidence=f"From {number(lowest[worst])} it went to {number(medians[worst])}, and ended at {number(train.end)}.",
        cause="The learning rate is too high at its peak: steps were spent on coming back.",
        remedy=f"Try {other_rate(run, 0.3)}, or a longer warmup_steps.",
        step=int(starts[worst]),
    )


def _start_again(run: RunRecord, factor: float) -> str:
    rate, clip = other_rate(run, factor), setting(run, "max_grad_norm", 1.0)
    return f"Start again with {rate}, a longer warmup_steps and {clip}."
