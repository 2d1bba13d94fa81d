"""The one table of metrics: what each is called, how it is written, and which way is better."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Literal

Better = Literal["higher", "lower", "neither"]


@dataclass(frozen=True)
class Figure:
    """How a figure of report.json is shown, and in a few words what it says."""

    title: str
    style: str
    better: Better
    meaning: str = ""
    unit_scale: bool = False
    """It lies between 0 and 1."""


def _share(title: str, better: Better, meaning: str = "") -> Figure:
    return Figure(title, "{:.1%}", better, meaning, unit_scale=True)


def _score(title: str, better: Better, meaning: str = "") -> Figure:
    return Figure(title, "{:.3f}", better, meaning, unit_scale=True)


# Of a perplexity per word of a model that knows next to nothing, the digits say nothing.
LARGE = 1e7

# In the order in which they are shown.
FIGURES = {
    "accuracy": _share("accuracy", "higher", "share of rows with the right label"),
    "loss": Figure("loss", "{:.4f}", "lower", "mean surprise in nats: 0 is certain and right"),
    "perplexity": Figure("perplexity", "{:.2f}", "lower", "as unsure as between so many equally likely tokens"),
    "word_perplexity": Figure("perplexity per word", "{:.1f}", "lower", "the same per word, whatever the tokenizer"),
    "bits_per_byte": Figure("bits per byte", "{:.3f}", "lower", "compares models with different tokenizers"),
    "token_accuracy": _share("token accuracy", "higher", "share of tokens guessed right"),
    "exact_match": _share("exact match", "higher", "answers equal to the reference"),
    "token_f1": _score("token F1", "higher", "words shared with the reference"),
    "bleu": Figure("BLEU", "{:.1f}", "higher", "word sequences shared with the reference, 0 to 100"),
    "chrf": Figure("chrF", "{:.1f}", "higher", "character sequences shared with the reference, 0 to 100"),
    "rouge1": _score("ROUGE-1", "higher", "words shared with the reference"),
    "rouge2": _score("ROUGE-2", "higher", "word pairs shared with the reference"),
    "rougeL": _score("ROUGE-L", "higher", "longest common sequence of words"),
    "answer_tokens": Figure("answer length", "{:.1f}", "neither", "mean tokens of an answer"),
    "repetition": _share("repetition", "lower", "share of four-token runs that came before in the same answer"),
    "refusal_rate": _share("refusals", "neither", "answers that decline"),
    "stop_rate": _share("ended by itself", "higher", "answers that end before they are cut off"),
    "balanced_accuracy": _share("balanced accuracy", "higher", "mean over the labels of the share found"),
    "f1_macro": _score("F1, macro", "higher", "every label counts the same"),
    "f1_micro": _score("F1, micro", "higher", "every decision counts the same"),
    "f1_weighted": _score("F1, weighted", "higher", "labels count by their rows"),
    "matthews_correlation": _score("Matthews correlation", "higher", "0 is guessing, 1 is right throughout"),
    "roc_auc": _score("ROC AUC", "higher", "0.5 is guessing"),
    "pr_auc": _score("PR AUC", "higher"),
    "precision_macro": _score("precision, macro", "higher"),
    "recall_macro": _score("recall, macro", "higher"),
    "log_loss": Figure("log loss", "{:.4f}", "lower", "mean surprise at the right label"),
    "expected_calibration_error": _score("calibration error", "lower", "how far scores are from how often they hold"),
    "log_loss_before_scaling": Figure("log loss before scaling", "{:.4f}", "lower"),
    "expected_calibration_error_before_scaling": _score("calibration error before scaling", "lower"),
    "precision": _score("precision", "higher"),
    "recall": _score("recall", "higher"),
    "f1": _score("F1", "higher"),
    "mae": Figure("mean absolute error", "{:.4g}", "lower"),
    "mse": Figure("mean squared error", "{:.4g}", "lower"),
    "r2": Figure("R²", "{:.3f}", "higher", "share of the variance explained"),
    "pearson": _score("Pearson correlation", "higher"),
}

# Of a report the first few that are there are said before all others.
HEADLINES = (
    *("accuracy", "f1_macro", "matthews_correlation", "expected_calibration_error"),
    *("exact_match", "token_f1", "loss", "perplexity", "token_accuracy", "bits_per_byte", "mae", "r2", "pearson"),
)

# What is computed at each evaluation while a model trains, by what it learns: a checkpoint can be the best by these.
OF_TOKENS = ("loss", "perplexity", "token_accuracy", "bits_per_byte")
OF_LABELS = (
    *("loss", "accuracy", "balanced_accuracy", "f1_macro", "f1_micro", "f1_weighted"),
    *("matthews_correlation", "roc_auc"),
)
OF_NUMBERS = ("loss", "mae", "r2", "pearson")

# Schedules of the learning rate that follow the metric by which a checkpoint is the best.
METRIC_SCHEDULES = ("reduce_lr_on_plateau", "greedy")

# Of these several figures are one metric to the Hub, or it has another name for them.
HUB_METRICS = {
    "word_perplexity": "perplexity",
    "token_accuracy": "accuracy",
    "token_f1": "f1",
    "answer_tokens": "answer_length",
    "r2": "r_squared",
    "pearson": "pearsonr",
    **dict.fromkeys(("rouge1", "rouge2", "rougeL"), "rouge"),
    **dict.fromkeys(("f1_macro", "f1_micro", "f1_weighted"), "f1"),
    "precision_macro": "precision",
    "recall_macro": "recall",
}


def figure(name: str) -> Figure:
    """How the figure `name` is shown; one that we do not know is shown under its own name."""
    return FIGURES.get(name) or Figure(name.replace("_", " "), "{:.4g}", "neither")


def best_metric(train: Mapping[str, Any]) -> str | None:
    """The metric by which a run with these settings of `train` calls a checkpoint the best, without `eval_`.

    None where nothing asks for one; the loss where no name is given, as in transformers.
    """
    name = train.get("metric_for_best_model")
    if name is not None:
        return str(name).removeprefix("eval_")
    asked = train.get("load_best_model_at_end") or train.get("lr_scheduler_type") in METRIC_SCHEDULES
    return "loss" if asked else None


def number(value: Any) -> float | None:
    """`value` as a number, NaN and infinities as report.json spells them too; None where it is none."""
    if isinstance(value, bool) or not isinstance(value, int | float | str):
        return None
    if isinstance(value, str) and value.lower() not in ("nan", "inf", "-inf"):
        return None
    return float(value)


def shown(name: str, value: Any) -> str:
    """The figure as a person reads it: `93.1%`, `not defined` for a NaN, and a dash where there is none."""
    found = number(value)
    if found is None:
        return "–"
    if not math.isfinite(found):
        return "not defined" if math.isnan(found) else str(found)
    return f"{found:.3g}" if abs(found) >= LARGE else figure(name).style.format(found)


def shown_interval(name: str, interval: Any) -> str:
    """`91.2% to 95.0%`; nothing where there is no interval, or one without width: of rows that are all alike."""
    ends = [number(end) for end in interval] if isinstance(interval, list | tuple) else []
    if len(ends) != 2 or any(end is None or not math.isfinite(end) for end in ends) or ends[0] == ends[1]:
        return ""
    return f"{shown(name, ends[0])} to {shown(name, ends[1])}"


def figures_of(scores: dict[str, Any]) -> dict[str, float]:
    """The flat figures of a split of report.json in the order in which they are shown; counts of rows left out."""
    found = {name: value for name, given in scores.items() if name != "rows" and (value := number(given)) is not None}
    order = list(FIGURES)
    return dict(sorted(found.items(), key=lambda item: order.index(item[0]) if item[0] in FIGURES else len(order)))
