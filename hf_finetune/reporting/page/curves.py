"""Charts of a run's history: losses, learning rate, gradient norm, throughput and memory, where logged."""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence

from hf_finetune.metric_info import get_metric_info
from hf_finetune.reporting.charts.svg import Chart, Mark, Series, make_line_chart
from hf_finetune.reporting.page.blocks import Block, More, drop_none, make_table
from hf_finetune.reporting.run_record import RunRecord, get_curve

TRAIN, VALIDATION = 0, 1
# Rows of the table of logged values.
MAX_LOGGED_ROWS = 30
MAX_BREAKS = 5

# Logged quantities besides the losses: (name, title of the chart, whether the y axis starts at 0).
OTHER_CURVES = (
    ("learning_rate", "Learning rate", True),
    ("grad_norm", "Gradient norm, before clipping", False),
    ("tokens_per_s", "Tokens per second", True),
    ("memory_mib", "Memory in use, MiB", True),
)
# Metrics in [0, 1], which share one chart.
SHARE_METRICS = ("eval_accuracy", "eval_f1_macro", "eval_token_accuracy")
ERROR_METRIC = "eval_mae"


def build_curves(run: RunRecord) -> list[Block]:
    """Charts of the history, and a table of its values; [] for a run that logged nothing."""
    validation = (
        _make_validation_chart(run, "Validation scores", SHARE_METRICS),
        _make_validation_chart(run, "Validation error", (ERROR_METRIC,)),
    )
    found = drop_none(make_loss_chart(run), *validation, *(_make_chart(run, *given) for given in OTHER_CURVES))
    return [*found, More("The numbers of these curves", tuple(_build_log_table(run)))] if found else []


def make_loss_chart(run: RunRecord) -> Chart | None:
    """Training and validation loss, with the best step and steps with non-finite values marked; None without any."""
    series = [
        Series("training", get_curve(run, "loss"), TRAIN),
        Series("validation", get_curve(run, "eval_loss"), VALIDATION, dots=True),
    ]
    best = [] if run.best_step is None else [Mark(run.best_step, f"best: step {run.best_step:,}")]
    return make_line_chart("Loss", series, marks=[*best, *_mark_breaks(series)])


def _make_chart(run: RunRecord, name: str, title: str, from_zero: bool) -> Chart | None:
    series = [Series(title.split(",")[0].lower(), get_curve(run, name), TRAIN, noisy=name != "learning_rate")]
    return make_line_chart(title, series, marks=_mark_breaks(series), from_zero=from_zero)


def _make_validation_chart(run: RunRecord, title: str, names: Sequence[str]) -> Chart | None:
    series = [
        Series(get_metric_info(name.removeprefix("eval_")).title, get_curve(run, name), VALIDATION + number, dots=True)
        for number, name in enumerate(names)
    ]
    return make_line_chart(title, series)


def _mark_breaks(series: Sequence[Series]) -> list[Mark]:
    """A mark at the first step of each stretch of non-finite values, five at most."""
    steps = []
    for each in series:
        before = True
        for step, value in each.points:
            if before and not math.isfinite(value):
                steps.append(step)
            before = math.isfinite(value)
    return [Mark(step, f"not finite: step {step:,.0f}", "broken") for step in sorted(set(steps))[:MAX_BREAKS]]


def _build_log_table(run: RunRecord) -> list[Block]:
    """A table of logged values at evenly spread steps and evaluations, and at the best step."""
    names = ("loss", "eval_loss", *SHARE_METRICS, ERROR_METRIC, *(name for name, _, _ in OTHER_CURVES))
    columns = {name: dict(values) for name in names if (values := get_curve(run, name))}
    steps = {step for values in columns.values() for step in values}
    chosen = _select_spread(steps) | _select_spread(columns.get("eval_loss", ()))
    chosen |= {step for step in steps if step == run.best_step}
    rows = [[f"{step:,}", *(_format_value(values.get(step)) for values in columns.values())] for step in sorted(chosen)]
    return make_table("By step", ["step", *(_get_title(name) for name in columns)], rows)


def _select_spread(steps: Iterable[int]) -> set[int]:
    """At most 30 of `steps`, evenly spread, with the first and the last."""
    # 100 steps from 0 to 99 -> 0, 3, 7, 10, 14, ..., 96, 99
    ordered = sorted(steps)
    if len(ordered) <= MAX_LOGGED_ROWS:
        return set(ordered)
    return {ordered[round(number * (len(ordered) - 1) / (MAX_LOGGED_ROWS - 1))] for number in range(MAX_LOGGED_ROWS)}


def _get_title(name: str) -> str:
    titles = {"loss": "training loss", "eval_loss": "validation loss"} | {key: title for key, title, _ in OTHER_CURVES}
    return titles.get(name) or f"validation {get_metric_info(name.removeprefix('eval_')).title}"


def _format_value(value: float | None) -> str:
    return "" if value is None else f"{value:.4g}"
