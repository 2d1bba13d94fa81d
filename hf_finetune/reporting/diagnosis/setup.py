"""Diagnose the set-up: loss at the start or below 0, warm-up, clipping, throughput."""

from __future__ import annotations

import math

import numpy as np

from hf_finetune.metric_info import SCHEDULES_WITHOUT_WARMUP, parse_number
from hf_finetune.reporting.diagnosis.curves import read_learning_rates
from hf_finetune.reporting.diagnosis.findings import Finding, fmt, format_setting, get_train_setting
from hf_finetune.reporting.run_record import RunRecord, get_curve

ALWAYS = 0.95
"""Share of the logged steps after warm-up that were clipped."""
WARM_UP = 0.1
"""Share of the steps at the start that is left out: gradients are large there in any run."""
MIN_NORMS = 5
FAR_ABOVE = 10.0
"""Multiple of max_grad_norm from which clipping sets the size of every step."""
WORSE_THAN_GUESSING = 1.1
"""Multiple of ln(vocabulary) that random weights may reach."""
TOO_GOOD = 0.85
"""Multiple of ln(vocabulary) below which random weights cannot be in their first steps."""
FIRST_STEPS = 3
SLOWER = 0.6
"""Share of the usual throughput below which the end is slow; uneven batch lengths stay above it."""
MIN_RATES = 8
MIN_RISING = 4
"""Logged learning rates that must have risen, all of them."""


def judge_setup(run: RunRecord) -> list[Finding]:
    """All findings on the set-up but that on the warm-up."""
    found = [_judge_start(run), _judge_sign(run), _judge_clipping(run), _judge_throughput(run)]
    return [each for each in found if each]


def judge_warmup(run: RunRecord) -> Finding | None:
    """A run that ended, or stopped, while its learning rate was still rising."""
    steps, rates = read_learning_rates(run)
    warmup = _get_warmup_steps(run)
    # By the settings where they are known; in a log a rate that rose from line to line, the last included.
    rising = len(rates) >= MIN_RISING and bool((np.diff(rates) > 0).all())
    if not run.step or not (warmup > run.step if warmup is not None else rising):
        return None
    planned = f" of a warm-up of {warmup:,}" if warmup is not None else ""
    last = f": {rates[-1]:.1e} at step {steps[-1]:,.0f}" if len(rates) else ""
    whole = run.max_steps or run.step
    stopped = run.step < whole and (warmup is None or warmup <= whole)
    return Finding(
        kind="warmup_not_over",
        level="warning",
        title="The run stopped inside its warm-up" if stopped else "The warm-up was longer than the run",
        evidence=f"After {run.step:,} steps{planned} the learning rate was still rising{last}.",
        cause="No step was taken at the learning rate that was asked for."
        if not stopped
        else "What was learned so far says nothing about the run at its full learning rate.",
        remedy="Go on with it." if stopped else f"Set {format_setting(run, 'warmup_steps', max(1, whole // 20))}.",
    )


def _get_warmup_steps(run: RunRecord) -> int | None:
    """Steps of the warm-up by the settings; None where they do not say, or the schedule has none."""
    value, whole = parse_number(get_train_setting(run, "warmup_steps")), run.max_steps or run.step
    if (
        value is None
        or not 0 < value < math.inf
        or get_train_setting(run, "lr_scheduler_type") in SCHEDULES_WITHOUT_WARMUP
    ):
        return None
    return math.ceil(value if value >= 1 else value * whole)  # as transformers (5.23) counts


def _judge_sign(run: RunRecord) -> Finding | None:
    """A loss below 0, which no cross-entropy has."""
    values = [each for name in ("loss", "eval_loss") for each in get_curve(run, name) if math.isfinite(each[1])]
    below = [each for each in values if each[1] < 0]
    if not below:
        return None
    lowest = min(value for _, value in below)
    return Finding(
        kind="negative_loss",
        level="warning",
        title="The loss is below 0",
        evidence=f"At {len(below):,} of {len(values):,} points of the log, {fmt(lowest)} at the lowest.",
        cause="It is no cross-entropy, as of reinforcement learning, or labels and weights of the loss are wrong.",
        remedy="Look at what the loss is made of. What is said here of shares of it does not hold.",
        step=min(below)[0],
    )


def _judge_start(run: RunRecord) -> Finding | None:
    """A first loss that is far from that of guessing."""
    # GPT-2 has 50,257 tokens: guessing costs ln(50257) = 10.82 nats. A first loss above 11.9 is broken, and so is one
    # below 9.2 if the weights are random.
    guess, losses = _compute_guessing_loss(run), [each for each in get_curve(run, "loss") if math.isfinite(each[1])]
    if guess is None or not losses:
        return None
    step, loss = losses[0]
    scratch = (run.settings.get("model") or {}).get("scratch") is not None
    early = scratch and step <= FIRST_STEPS
    if not (loss > WORSE_THAN_GUESSING * guess or (early and loss < TOO_GOOD * guess)):
        return None
    above = loss > guess
    return Finding(
        kind="loss_at_start",
        level="warning",
        title=f"The first loss is far {'above' if above else 'below'} that of guessing",
        evidence=f"{fmt(loss)} at step {step:,}; every token equally likely is {fmt(guess)}, ln(vocabulary).",
        cause="The learning rate is too high from the first steps on, the tokenizer is another model's, or the loss is "
        "a sum over batches."
        if above
        else "Random weights cannot know this: the labels are shifted, or can be seen in the input.",
        remedy=f"Look at the tokenizer and the data, and log every step: {format_setting(run, 'logging_steps', 1)}.",
        step=step,
    )


def _compute_guessing_loss(run: RunRecord) -> float | None:
    """ln(vocabulary), the loss of equally likely tokens; None if the model is not a language model."""
    architectures, vocabulary = run.model.get("architectures"), run.model.get("vocab_size")
    if not (isinstance(vocabulary, int) and vocabulary > 1 and isinstance(architectures, list) and architectures):
        return None
    return math.log(vocabulary) if str(architectures[0]).endswith(("ForCausalLM", "LMHeadModel")) else None


def _judge_clipping(run: RunRecord) -> Finding | None:
    """Gradients that are clipped at nearly every step."""
    limit = get_train_setting(run, "max_grad_norm")
    norms = [value for step, value in get_curve(run, "grad_norm") if step > WARM_UP * run.step and math.isfinite(value)]
    if not isinstance(limit, int | float) or limit <= 0 or len(norms) < MIN_NORMS:
        return None
    clipped = sum(norm > limit for norm in norms)
    if clipped < ALWAYS * len(norms):
        return None
    usual = float(np.median(norms))
    larger = 4 * (get_train_setting(run, "gradient_accumulation_steps") or 1)
    assumed = ", the default," if run.status == "foreign" else ""
    return Finding(
        kind="clipping_every_step",
        level="warning" if usual > FAR_ABOVE * limit else "note",
        title="The gradient was clipped at every step",
        evidence=f"Its norm was above max_grad_norm {limit:g}{assumed} at {clipped} of {len(norms)} logged steps, "
        f"{fmt(usual)} in the middle.",
        cause="The limit, not the gradient, sets the size of each step: rare large gradients are no longer told apart.",
        remedy=f"Set {format_setting(run, 'max_grad_norm', float(f'{2 * usual:.1g}'))}, or larger batches: "
        f"{format_setting(run, 'gradient_accumulation_steps', larger)}.",
    )


def _judge_throughput(run: RunRecord) -> Finding | None:
    """A last quarter that is much slower than the rest."""
    rates = get_curve(run, "tokens_per_s")
    if len(rates) < MIN_RATES:
        return None
    values = [value for _, value in rates]
    cut = len(values) * 3 // 4
    usual, late = float(np.median(values[:cut])), float(np.median(values[cut:]))
    if usual <= 0 or late >= SLOWER * usual:
        return None
    # Walk back from the end while values are nearer to the late level:
    # 100, 100, 95, 100, 98, 100, 40, 42 -> usual 100, late 41, slow from the seventh entry on.
    slow = len(values)
    while slow > 0 and values[slow - 1] < (usual + late) / 2:
        slow -= 1
    step = rates[min(slow, len(rates) - 1)][0]
    return Finding(
        kind="throughput_drop",
        level="note",
        title=f"Training became slower about step {step:,}",
        evidence=f"{usual:,.0f} tokens per second before, {late:,.0f} in the last quarter: {late / usual:.0%}.",
        cause="Other work on the machine, a processor that got too hot, or memory that is full and swapped.",
        remedy="Look at the machine. The model is none the worse for it.",
        step=step,
    )
