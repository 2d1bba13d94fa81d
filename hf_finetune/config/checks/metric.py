"""The metric by which a checkpoint is the best: one that the run computes, and in its own direction."""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping
from typing import Any

from hf_finetune.config.reading.document import RunDocument, format_value
from hf_finetune.config.sections import RecipeName
from hf_finetune.errors import find_closest
from hf_finetune.metric_info import (
    EVAL_LABEL_METRICS,
    EVAL_REGRESSION_METRICS,
    EVAL_TOKEN_METRICS,
    METRIC_SCHEDULES,
    METRICS,
    get_best_metric,
    get_metric_info,
)

NAME = ("train", "metric_for_best_model")
DIRECTION = ("train", "greater_is_better")

# What other tools and papers call what we compute, or what stands for it: the loss of labels is their log loss, that
# of numbers their squared error.
OTHER_NAMES = {
    **dict.fromkeys(("log_loss", "cross_entropy", "nll", "mse", "mean_squared_error", "rmse", "brier"), ("loss",)),
    **dict.fromkeys(("expected_calibration_error", "ece"), ("loss",)),
    **dict.fromkeys(("f1", "macro_f1"), ("f1_macro",)),
    **dict.fromkeys(("mcc", "matthews_corrcoef"), ("matthews_correlation",)),
    **dict.fromkeys(("acc", "mean_token_accuracy"), ("accuracy", "token_accuracy")),
    "accuracy": ("token_accuracy",),
    "auc": ("roc_auc",),
    "mean_absolute_error": ("mae",),
    "pearsonr": ("pearson",),
    "r_squared": ("r2",),
    "bpb": ("bits_per_byte",),
    **dict.fromkeys(("ppl", "word_perplexity"), ("perplexity",)),
}


def check_metric(document: RunDocument, run: Any, recipe: RecipeName) -> None:
    """Refuse a metric that is not computed at the evaluations of this run, and a direction that is not its own."""
    train = run.train.model_dump()
    name = get_best_metric(train)
    if recipe == "score" or document.is_refused("train.metric_for_best_model", "data.task"):
        return
    if name is None:
        if train["greater_is_better"] is not None and not document.is_refused("train.load_best_model_at_end"):
            document.refuse(
                DIRECTION, "has no effect without train.metric_for_best_model", "leave it out", code="HF607"
            )
        return
    loss_alone = train["prediction_loss_only"]
    computed = ("loss",) if loss_alone else figures_at_evaluation(recipe, run.data.task)
    if name not in computed:
        kind = "a regression" if run.data.task == "regression" else recipe
        where = f"of {kind}{' under train.prediction_loss_only' if loss_alone else ''}"
        document.refuse(NAME, *_not_computed(name, computed, where), code="HF663")
        return
    _check_direction(document, train, name)


def figures_at_evaluation(recipe: RecipeName, task: str | None) -> tuple[str, ...]:
    """The figures of each evaluation while a model trains; numbers are predicted where `data.task` says so alone."""
    if recipe != "classification":
        return EVAL_TOKEN_METRICS
    return EVAL_REGRESSION_METRICS if task == "regression" else EVAL_LABEL_METRICS


def best_model_settings(train: Mapping[str, Any]) -> dict[str, Any]:
    """The settings of `train` that make transformers look for the best by the metric's own direction.

    It takes all but a name that ends in loss for better higher, and never tells a schedule which way is better:
    `metric_for_best_model` in its TrainingArguments, `create_scheduler` in its Trainer (5.23).
    """
    name = get_best_metric(train)
    if name is None:
        return {}
    higher = get_metric_info(name).better == "higher"
    found = {"metric_for_best_model": name, "greater_is_better": higher}
    if train.get("lr_scheduler_type") not in METRIC_SCHEDULES:
        return found
    return found | {"lr_scheduler_kwargs": _schedule_settings(train) | {"mode": "max" if higher else "min"}}


def _check_direction(document: RunDocument, train: Mapping[str, Any], name: str) -> None:
    better = get_metric_info(name).better
    right, mode = ("true", "max") if better == "higher" else ("false", "min")
    given = train["greater_is_better"]
    if given is not None and format_value(given) != right and not document.is_refused("train.greater_is_better"):
        what = f"is {format_value(given)}, and {better} is better of {name}"
        document.refuse(DIRECTION, what, f"write {right}, or leave it out", code="HF664")
    asked = _schedule_settings(train).get("mode", mode) if train["lr_scheduler_type"] in METRIC_SCHEDULES else mode
    if asked != mode and not document.is_refused("train.lr_scheduler_kwargs"):
        what = f"is {format_value(asked)}, and {better} is better of {name}"
        document.refuse(("train", "lr_scheduler_kwargs", "mode"), what, f"write {mode}, or leave it out", code="HF664")


def _schedule_settings(train: Mapping[str, Any]) -> dict[str, Any]:
    """`train.lr_scheduler_kwargs`, which may be JSON as well; {} where it is neither."""
    given = train.get("lr_scheduler_kwargs") or {}
    if isinstance(given, str):
        try:
            given = json.loads(given)
        except ValueError:
            return {}
    return given if isinstance(given, dict) else {}


def _not_computed(name: str, computed: Iterable[str], where: str) -> tuple[str, str]:
    """What is wrong with `name`, and what to write instead."""
    listed = [*computed]
    if name in METRICS and get_metric_info(name).better == "neither":
        what = f"{format_value(name)} is better neither higher nor lower, so that no checkpoint is the best by it"
        return what, f"choose one of {', '.join(listed)}"
    meant = next((other for other in OTHER_NAMES.get(name.lower(), ()) if other in listed), None)
    meant = meant or find_closest(name, listed)
    what = f"{format_value(name)} is not computed at the evaluations {where}"
    return (
        what,
        f"did you mean {meant}? They compute {', '.join(listed)}" if meant else f"choose one of {', '.join(listed)}",
    )
