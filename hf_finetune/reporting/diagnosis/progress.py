"""Learning curves: a learning rate that is too low, plateaus, and underfitting."""

from __future__ import annotations

import numpy as np

from hf_finetune.reporting.diagnosis.curves import ALPHA, Curve, estimate_fall, estimate_noise, read_learning_rates
from hf_finetune.reporting.diagnosis.divergence import MIN_POINTS
from hf_finetune.reporting.diagnosis.findings import (
    Finding,
    find_peak_rate,
    fmt,
    format_rate,
    format_setting,
    get_train_setting,
)
from hf_finetune.reporting.diagnosis.overfitting import judge_overfitting
from hf_finetune.reporting.run_record import RunRecord

SOLVED = 0.1
"""Share of the first loss below which little is left to learn."""
MIN_LATE_POINTS = 4
"""Points needed in the second half: of three points in order, the rank test's p is 1/6."""
FLAT = 0.02
"""Plateau: the second half of the learning rate brought at most this share of the fall, or no significant fall."""
SOON = 0.7
"""Share of the learning rate in which a plateau is reached, under a schedule that runs down: else it has ended well."""
FLAT_AT_MOST = 0.1
"""And at most this share by the upper bound of the interval: noise must not hide a fall."""
STILL_FALLING = 0.05
"""Underfitting: share of the final loss that the second half of the learning rate still took off."""
UNDECAYED = 0.3
"""Final share of the peak learning rate above which the schedule has not decayed."""
STRAIGHT = (0.35, 0.8)
"""Straight line: share of the fall in the second half of the learning rate, 0.5 if it is exact."""
NEVER_LOW = 1e-3
"""Learning rate of an adaptive optimizer from which weights move, whatever the loss does."""
BARELY = 0.05
"""Share of the first loss that a learning rate far too low takes off at most."""
STEADY = 4.0
"""Multiple of its noise by which a validation loss must fall to count as a steady fall."""


def judge_progress(run: RunRecord, train: Curve, validation: Curve) -> Finding | None:
    """The first of these findings that holds: the later ones would name the same cause again."""
    judges = (judge_overfitting, _judge_low_rate, _judge_no_learning, _judge_plateau, _judge_underfitting)
    return next((found for judge in judges if (found := judge(run, train, validation))), None)


def _describe_way(curve: Curve) -> str:
    """`from 4.58 to 1.98`: first and last value of the log."""
    return f"from {fmt(curve.logged[0])} to {fmt(curve.logged[1])}"


def _judge_low_rate(run: RunRecord, train: Curve, validation: Curve) -> Finding | None:
    """A small fall in a straight line from the first step on: the weights have hardly moved."""
    rate = find_peak_rate(run)
    if len(train) < MIN_POINTS or (rate is not None and rate >= NEVER_LOW and not _is_sgd(run)):
        return None
    start, fell = float(train.values[0]), float(train.values[0]) - train.end
    steady = _find_steady_curve(train, validation)
    if rate != 0.0 and (fell > BARELY * start or steady is None or not _is_straight(steady)):
        return None
    slowly = f"At {rate:.1e} the" if rate else "The"
    return Finding(
        kind="learning_rate_too_low",
        level="warning",
        title="The learning rate is 0" if rate == 0.0 else "The learning rate is too low",
        evidence=f"In {run.step:,} steps the loss went {_describe_way(train)}, in one line.",
        cause=f"{slowly} weights hardly move: the last steps brought as much as the first ones.",
        remedy=f"Try {format_rate(run, 10.0)}: raise it tenfold until the loss falls fast at first, then slower.",
    )


def _is_sgd(run: RunRecord) -> bool:
    """Whether the steps are as large as the gradients, so that no rate is high by itself."""
    return str(get_train_setting(run, "optim")).startswith("sgd")


def _find_steady_curve(train: Curve, validation: Curve) -> Curve | None:
    """The curve that falls significantly, however little: validation if it was measured often enough, or training."""
    # Four evaluations 4.8467, 4.8416, 4.8389, 4.8385 bend as much as they fall, and pass for noise; sixteen training
    # losses from 4.852 to 4.839, each within 0.0004 of a line, do not.
    enough = len(validation) >= MIN_LATE_POINTS
    if enough and _is_steady(validation):
        return validation
    fall = estimate_fall(train)
    clear = fall is not None and fall.size > STEADY * estimate_noise(train.values)
    return train if _is_steady(train) and (clear or not enough) else None


def _is_steady(measured: Curve) -> bool:
    """Whether the curve falls significantly, however little."""
    found = estimate_fall(measured)
    if not found or found.p >= ALPHA:
        return False
    # Weights that hardly move change a validation loss, always of the same rows, evenly and almost without noise.
    return measured.of_batches or found.size > STEADY * estimate_noise(measured.values)


def _is_straight(measured: Curve) -> bool:
    """Whether the second half of the learning rate brought about half of the fall."""
    whole, late = estimate_fall(measured), estimate_fall(measured.since(0.5))
    return whole is not None and late is not None and STRAIGHT[0] * whole.size <= late.size <= STRAIGHT[1] * whole.size


def _judge_no_learning(run: RunRecord, train: Curve, validation: Curve) -> Finding | None:
    """A loss that does not fall from the first step on, with an upper bound that rules out a fall that matters."""
    start = float(train.values[0]) if len(train) else 0.0
    if len(train) < MIN_POINTS or start - train.end > BARELY * start:
        return None
    # Both tell of the same model: the one with more points, or less noise, rules a fall out the sooner.
    curves = [train, validation] if len(validation) >= MIN_LATE_POINTS else [train]
    falls = [found for each in curves if (found := estimate_fall(each))]
    if not falls or min(each.most for each in falls) > BARELY * start:
        return None
    if _find_steady_curve(train, validation) is not None or _falls_each_time(validation):
        return None
    return Finding(
        kind="plateau",
        level="warning",
        title="Nothing was learned",
        evidence=f"The loss went {_describe_way(train)} in {run.step:,} steps: mere noise.",
        cause="The labels have nothing to do with the inputs, what would learn is frozen, or the rate is far off.",
        remedy=f"Look at the rows and what is trained; then try {format_rate(run, 10.0)} and {format_rate(run, 0.1)}.",
    )


def _falls_each_time(validation: Curve) -> bool:
    """Whether each of a few evaluations was lower than the one before: too few to prove a fall, enough for a doubt."""
    return 2 < len(validation) < MIN_LATE_POINTS and bool((np.diff(validation.values) < 0).all())


def _judge_plateau(run: RunRecord, train: Curve, validation: Curve) -> Finding | None:
    """A loss that fell, and to which the second half of the learning rate added next to nothing."""
    if len(train) < MIN_POINTS or train.end <= SOLVED * train.values[0]:
        return None
    start, rough = float(train.values[0]), estimate_noise(train.values)
    total = start - train.end
    # Validation decides where it was measured often enough: its rows are the same each time, so it has less noise.
    late = [each for each in (validation.since(0.5), train.since(0.5)) if len(each) >= MIN_LATE_POINTS]
    falls = [found for each in late if (found := estimate_fall(each))]
    if total <= 2 * rough or not falls or max(each.most for each in falls) > FLAT_AT_MOST * total:
        return None
    if falls[0].size > FLAT * total and falls[0].p < ALPHA:
        return None
    # A point of the plateau lies above its level by what is left to fall, and by noise, as large as the former or not.
    first = int(np.flatnonzero(train.values <= train.end + FLAT * total + rough)[0])
    reached, rates = int(train.steps[first]), read_learning_rates(run)[1]
    if len(rates) and rates[-1] < UNDECAYED * rates.max() and train.spent[first] > SOON:
        return None  # it learned for most of its rate, and has come to its end
    return Finding(
        kind="plateau",
        level="warning",
        title=f"Nothing more was learned from about step {reached:,} on",
        evidence=f"The loss went {_describe_way(train)}; of that the second half of the learning "
        f"rate brought {max(0.0, falls[0].size / total):.1%}.",
        cause="The model is too small, most of it is frozen, or the rows have no more in them that can be predicted.",
        remedy=f"Spare the steps after it ({format_setting(run, 'max_steps', reached)}), or change what holds it back: "
        f"a larger model, more of it trained, cleaner rows, or {format_rate(run, 0.3)}.",
        step=reached,
    )


def _judge_underfitting(run: RunRecord, train: Curve, validation: Curve) -> Finding | None:
    """A loss that still falls at the end, at a learning rate that has not decayed.

    After a full decay the log cannot tell, and a run that was interrupted is not judged.
    """
    rates = read_learning_rates(run)[1]
    unfinished = run.status == "running" or (run.max_steps is not None and run.step < 0.9 * run.max_steps)
    if unfinished or len(train) < MIN_POINTS or not len(rates) or rates[-1] < UNDECAYED * rates.max():
        return None
    validated = len(validation.since(0.5)) >= MIN_LATE_POINTS
    measured = validation if validated else train
    late, also = estimate_fall(measured.since(0.5)), estimate_fall(train.since(0.5))
    if not late or not also or late.p >= ALPHA or late.size <= STILL_FALLING * abs(measured.end) or also.size <= 0:
        return None
    return Finding(
        kind="underfitting",
        level="warning",
        title="The run ended while the loss was still falling",
        evidence=f"The second half of its {run.step:,} steps took {fmt(late.size)} off the "
        f"{'validation' if validated else 'training'} loss, which ended at {fmt(measured.logged[1])}.",
        cause="Too few steps: the model has not learned what these rows have.",
        remedy=f"Train longer ({format_setting(run, 'max_steps', 3 * run.step)}), with "
        f"{format_setting(run, 'lr_scheduler_type', 'cosine')} so that the rate ends near 0.",
    )
