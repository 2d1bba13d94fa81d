"""What the curves say about learning: overfitting, a rate that is too low, plateaus, and runs that ended too soon."""

from __future__ import annotations

import numpy as np

from hf_finetune.reporting.diagnosis.curves import Curve, fall, learning_rates, noise
from hf_finetune.reporting.diagnosis.divergence import FEWEST_POINTS
from hf_finetune.reporting.diagnosis.findings import Finding, number, other_rate, peak_rate, setting
from hf_finetune.reporting.run_record import RunRecord, kept_by

FEWEST_VALIDATIONS = 3
"""To see a loss fall and rise again."""
OVERFIT = 0.03
"""Share of the lowest validation loss by which it has risen since: smaller rises come and go."""
OVERFIT_OF_GAIN = 0.05
"""And share of what it had gained: a small bend at the end of a long fall is none."""
SOLVED = 0.1
"""Share of the first loss below which little is left to learn."""
FEWEST_LATE = 4
"""Points of a half: the rank test cannot be sure with three."""
FLAT = 0.02
"""Share of the whole fall that the second half of the learning rate brought, at most, on a plateau; or no sure fall."""
FLAT_AT_MOST = 0.1
"""And what it brought with 95 % certainty: noise must not hide a fall."""
STILL_FALLING = 0.05
"""Share of the final loss that the second half of the steps brought."""
UNDECAYED = 0.3
"""Share of the peak learning rate at the end above which the schedule was not what ended the fall."""
STRAIGHT = (0.35, 0.8)
"""Share of the fall in the second half of the learning rate: half and half on a straight line."""
BARELY = 0.05
"""Share of the first loss that a rate far too low takes off it at most."""
SURE = 0.05
"""Of rank tests."""
STEADY = 4.0
"""Times its noise that a validation loss falls where a rate far too low moves the weights one way, step by step."""


def judge_progress(run: RunRecord, train: Curve, validation: Curve) -> Finding | None:
    """The first of these that holds; the later ones would only say the same in other words."""
    judges = (_overfitting, _low_rate, _never_moved, _plateau, _underfitting)
    return next((found for judge in judges if (found := judge(run, train, validation))), None)


def _overfitting(run: RunRecord, train: Curve, validation: Curve) -> Finding | None:
    if len(validation) < FEWEST_VALIDATIONS or len(train) < FEWEST_VALIDATIONS:
        return None
    best = int(np.argmin(validation.values))
    after = validation.values[best + 1 :]
    if not len(after):
        return None
    lowest, end = float(validation.values[best]), float(np.median(after[-3:]))
    gained = max(train.values[0], validation.values[0]) - lowest
    until = train.values[train.steps <= validation.steps[best]]
    level = float(np.median(until[-3:])) if len(until) else float(train.values[0])
    if end - lowest <= max(OVERFIT * abs(lowest), OVERFIT_OF_GAIN * gained) or train.end > level:
        return None
    step = int(validation.steps[best])
    epochs = max((entry["epoch"] for entry in run.history if "epoch" in entry), default=0.0)
    return Finding(
        kind="overfitting",
        level="warning" if kept_by(run) else "problem",
        title=f"Overfitting from step {step:,} on",
        evidence=f"The validation loss was lowest at step {step:,}, {number(lowest)}, and rose to {number(end)}, while "
        f"the training loss went from {number(level)} to {number(train.end)}."
        + (f" Each row was seen {epochs:,.0f} times." if epochs >= 2 else ""),
        cause="The model learns the training rows by heart: too many passes, or too much model, for so few rows.",
        remedy=_stop_at(run, step),
        step=step,
    )


def _stop_at(run: RunRecord, step: int) -> str:
    metric = kept_by(run)
    if metric is not None:
        chosen = "" if metric == "loss" else f", the best by {metric}, which need not be the best by its loss"
        kept = f"The saved model is that of {run.best_checkpoint}{chosen}."
        return f"{kept} More rows, or a smaller model, reach further."
    use = f"Use {run.best_checkpoint}, or train" if run.best_checkpoint else "Train"
    patience = setting(run, "early_stopping_patience", 3)
    return (
        f"{use} no longer than that: {setting(run, 'max_steps', step)}, or "
        f"{setting(run, 'load_best_model_at_end', True)} with {patience}. More rows, or a smaller model, reach further."
    )


def _low_rate(run: RunRecord, train: Curve, validation: Curve) -> Finding | None:
    """A straight line from the first step on: the weights are hardly elsewhere at the end."""
    rate = peak_rate(run)
    if len(train) < FEWEST_POINTS:
        return None
    start, fell = float(train.values[0]), float(train.values[0]) - train.end
    measured = validation if len(validation) >= FEWEST_LATE else train
    if rate != 0.0 and (fell > BARELY * start or not _is_steady(measured) or not _is_straight(measured)):
        return None
    slowly = f"At {rate:.1e} the" if rate else "The"
    return Finding(
        kind="learning_rate_too_low",
        level="warning",
        title="The learning rate is 0" if rate == 0.0 else "The learning rate is too low",
        evidence=f"In {run.step:,} steps the loss went from {number(start)} to {number(train.end)}, in one line.",
        cause=f"{slowly} weights hardly move: the last steps brought as much as the first ones.",
        remedy=f"Try {other_rate(run, 10.0)}: raise it tenfold until the loss falls fast at first, then slower.",
    )


def _is_steady(measured: Curve) -> bool:
    """Whether it falls, however little. Validation losses, of the same rows each time, have hardly any noise then."""
    found = fall(measured)
    if not found or found.p >= SURE:
        return False
    return measured.of_batches or found.size > STEADY * noise(measured.values)


def _is_straight(measured: Curve) -> bool:
    """Whether it falls as fast in the second half of the learning rate as before."""
    whole, late = fall(measured), fall(measured.since(0.5))
    return whole is not None and late is not None and STRAIGHT[0] * whole.size <= late.size <= STRAIGHT[1] * whole.size


def _never_moved(run: RunRecord, train: Curve, validation: Curve) -> Finding | None:
    """From the first step on the loss does not fall, and noise does not hide a fall that would matter."""
    measured = validation if len(validation) >= FEWEST_LATE else train
    start, found = float(train.values[0]) if len(train) else 0.0, fall(measured)
    if len(train) < FEWEST_POINTS or start - train.end > BARELY * start or not found:
        return None
    if _is_steady(measured) or found.most > BARELY * start:
        return None
    return Finding(
        kind="plateau",
        level="warning",
        title="Nothing was learned",
        evidence=f"The loss went from {number(start)} to {number(train.end)} in {run.step:,} steps: mere noise.",
        cause="The labels have nothing to do with the inputs, what would learn is frozen, or the rate is far off.",
        remedy=f"Look at the rows and what is trained; then try {other_rate(run, 10.0)} and {other_rate(run, 0.1)}.",
    )


def _plateau(run: RunRecord, train: Curve, validation: Curve) -> Finding | None:
    if len(train) < FEWEST_POINTS or train.end <= SOLVED * train.values[0]:
        return None
    start, rough = float(train.values[0]), noise(train.values)
    total = start - train.end
    # The validation rows are the same each time: where it was measured often enough it decides, noise apart.
    late = [each for each in (validation.since(0.5), train.since(0.5)) if len(each) >= FEWEST_LATE]
    falls = [found for each in late if (found := fall(each))]
    if total <= 2 * rough or not falls or max(each.most for each in falls) > FLAT_AT_MOST * total:
        return None
    if falls[0].size > FLAT * total and falls[0].p < SURE:
        return None
    reached = int(train.steps[np.flatnonzero(train.values <= train.end + max(FLAT * total, rough))[0]])
    return Finding(
        kind="plateau",
        level="warning",
        title=f"Nothing more was learned from about step {reached:,} on",
        evidence=f"The loss went from {number(start)} to {number(train.end)}; of that the second half of the learning "
        f"rate brought {max(0.0, falls[0].size / total):.1%}.",
        cause="The model is too small, most of it is frozen, or the rows have no more in them that can be predicted.",
        remedy=f"Spare the steps after it ({setting(run, 'max_steps', reached)}), or change what holds it back: "
        f"a larger model, more of it trained, cleaner rows, or {other_rate(run, 0.3)}.",
        step=reached,
    )


def _underfitting(run: RunRecord, train: Curve, validation: Curve) -> Finding | None:
    """Under a schedule that had ended, a log cannot tell; a run that was stopped on its way is not judged."""
    rates = learning_rates(run)[1]
    unfinished = run.max_steps is not None and run.step < 0.9 * run.max_steps
    if unfinished or len(train) < FEWEST_POINTS or not len(rates) or rates[-1] < UNDECAYED * rates.max():
        return None
    validated = len(validation.since(0.5)) >= FEWEST_LATE
    measured = validation if validated else train
    late, also = fall(measured.since(0.5)), fall(train.since(0.5))
    if not late or not also or late.p >= SURE or late.size <= STILL_FALLING * abs(measured.end) or also.size <= 0:
        return None
    return Finding(
        kind="underfitting",
        level="warning",
        title="The run ended while the loss was still falling",
        evidence=f"The second half of its {run.step:,} steps took {number(late.size)} off the "
        f"{'validation' if validated else 'training'} loss, which ended at {number(float(measured.values[-1]))}.",
        cause="Too few steps: the model has not learned what these rows have.",
        remedy=f"Train longer ({setting(run, 'max_steps', 3 * run.step)}), with "
        f"{setting(run, 'lr_scheduler_type', 'cosine')} so that the rate ends near 0.",
    )
