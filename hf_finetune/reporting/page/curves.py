"""Curves of a run's history: losses, learning rate, gradients, speed and memory, each where it was logged."""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence

from hf_finetune.metric_info import figure
from hf_finetune.reporting.charts.svg import Chart, Mark, Series, line_chart
from hf_finetune.reporting.page.blocks import Block, More, some, table
from hf_finetune.reporting.run_record import RunRecord, curve

TRAIN, VALIDATION = 0, 1
# Of the history: what a person reads as a table beside the curves.
LOGGED_ROWS = 30
MOST_BREAKS = 5

# Figures beside the losses that are logged while training: name, title of the chart, and whether it begins at 0.
OTHERS = (
    ("learning_rate", "Learning rate", True),
    ("grad_norm", "Gradient norm, before clipping", False),
    ("tokens_per_s", "Tokens per second", True),
    ("memory_mib", "Memory in use, MiB", True),
)
# Shares of the validation that is right: one chart, as they have one scale.
SHARES = ("eval_accuracy", "eval_f1_macro", "eval_token_accuracy")
ERROR = "eval_mae"


def curves(run: RunRecord) -> list[Block]:
    """Charts of the history, and its numbers; nothing for a run that logged nothing."""
    validation = (_validation(run, "Validation scores", SHARES), _validation(run, "Validation error", (ERROR,)))
    found = some(losses(run), *validation, *(_other(run, *given) for given in OTHERS))
    return [*found, More("The numbers of these curves", tuple(_log(run)))] if found else []


def losses(run: RunRecord) -> Chart | None:
    """Training and validation loss, the best step and every step that was not finite marked."""
    series = [
        Series("training", curve(run, "loss"), TRAIN),
        Series("validation", curve(run, "eval_loss"), VALIDATION, dots=True),
    ]
    best = [] if run.best_step is None else [Mark(run.best_step, f"best: step {run.best_step:,}")]
    return line_chart("Loss", series, marks=[*best, *_breaks(series)])


def _other(run: RunRecord, name: str, title: str, from_zero: bool) -> Chart | None:
    series = [Series(title.split(",")[0].lower(), curve(run, name), TRAIN, noisy=name != "learning_rate")]
    return line_chart(title, series, marks=_breaks(series), from_zero=from_zero)


def _validation(run: RunRecord, title: str, names: Sequence[str]) -> Chart | None:
    series = [
        Series(figure(name.removeprefix("eval_")).title, curve(run, name), VALIDATION + number, dots=True)
        for number, name in enumerate(names)
    ]
    return line_chart(title, series)


def _breaks(series: Sequence[Series]) -> list[Mark]:
    """Where values stop being numbers: the first of each stretch of them."""
    steps = []
    for each in series:
        before = True
        for step, value in each.points:
            if before and not math.isfinite(value):
                steps.append(step)
            before = math.isfinite(value)
    return [Mark(step, f"not finite: step {step:,.0f}", "broken") for step in sorted(set(steps))[:MOST_BREAKS]]


def _log(run: RunRecord) -> list[Block]:
    """The history as a table: steps that are spread over it evenly, and its best one."""
    names = ("loss", "eval_loss", *SHARES, ERROR, *(name for name, _, _ in OTHERS))
    columns = {name: dict(values) for name in names if (values := curve(run, name))}
    steps = {step for values in columns.values() for step in values}
    chosen = _spread(steps) | _spread(columns.get("eval_loss", ()))
    chosen |= {step for step in steps if step == run.best_step}
    rows = [[f"{step:,}", *(_written(values.get(step)) for values in columns.values())] for step in sorted(chosen)]
    return table("By step", ["step", *(_title(name) for name in columns)], rows)


def _spread(steps: Iterable[int]) -> set[int]:
    """At most 30 of them, the first and the last among these."""
    ordered = sorted(steps)
    if len(ordered) <= LOGGED_ROWS:
        return set(ordered)
    return {ordered[round(number * (len(ordered) - 1) / (LOGGED_ROWS - 1))] for number in range(LOGGED_ROWS)}


def _title(name: str) -> str:
    titles = {"loss": "training loss", "eval_loss": "validation loss"} | {key: title for key, title, _ in OTHERS}
    return titles.get(name) or f"validation {figure(name.removeprefix('eval_')).title}"


def _written(value: float | None) -> str:
    return "" if value is None else f"{value:.4g}"
