"""Metrics by name: title, format, direction, and what the Hub calls them; counts, and what so many rows can show."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Literal

Direction = Literal["higher", "lower", "neither"]


@dataclass(frozen=True)
class MetricInfo:
    """A metric of report.json: its title, format and direction, and its meaning in a few words."""

    title: str
    style: str
    better: Direction
    meaning: str = ""
    unit_scale: bool = False
    """Values are in [0, 1]."""


def _make_share(title: str, better: Direction, meaning: str = "") -> MetricInfo:
    return MetricInfo(title, "{:.1%}", better, meaning, unit_scale=True)


def _make_score(title: str, better: Direction, meaning: str = "") -> MetricInfo:
    return MetricInfo(title, "{:.3f}", better, meaning, unit_scale=True)


# From here on three digits: the perplexity per word of an untrained model has 20 digits that mean nothing.
# format: perplexity 2310000000.0 -> "2.31e+09"
MAX_PLAIN_VALUE = 1e7

# In display order: report.html, the model card and the terminal all follow it.
METRICS = {
    "accuracy": _make_share("accuracy", "higher", "share of rows with the right label"),
    "loss": MetricInfo("loss", "{:.4f}", "lower", "mean surprise in nats: 0 is certain and right"),
    "perplexity": MetricInfo("perplexity", "{:.2f}", "lower", "as unsure as between so many equally likely tokens"),
    "word_perplexity": MetricInfo(
        "perplexity per word", "{:.1f}", "lower", "the same per word, whatever the tokenizer"
    ),
    "bits_per_byte": MetricInfo("bits per byte", "{:.3f}", "lower", "compares models with different tokenizers"),
    "token_accuracy": _make_share("token accuracy", "higher", "share of tokens guessed right"),
    "exact_match": _make_share("exact match", "higher", "answers equal to the reference"),
    "token_f1": _make_score("token F1", "higher", "words shared with the reference"),
    "bleu": MetricInfo("BLEU", "{:.1f}", "higher", "word sequences shared with the reference, 0 to 100"),
    "chrf": MetricInfo("chrF", "{:.1f}", "higher", "character sequences shared with the reference, 0 to 100"),
    "rouge1": _make_score("ROUGE-1", "higher", "words shared with the reference"),
    "rouge2": _make_score("ROUGE-2", "higher", "word pairs shared with the reference"),
    "rougeL": _make_score("ROUGE-L", "higher", "longest common sequence of words"),
    "answer_tokens": MetricInfo("answer length", "{:.1f}", "neither", "mean tokens of an answer"),
    "repetition": _make_share("repetition", "lower", "share of four-token runs that came before in the same answer"),
    "refusal_rate": _make_share("refusals", "neither", "answers that decline"),
    "stop_rate": _make_share("ended by itself", "higher", "answers that end before they are cut off"),
    "balanced_accuracy": _make_share("balanced accuracy", "higher", "mean over the labels of the share found"),
    "f1_macro": _make_score("F1, macro", "higher", "every label counts the same"),
    "f1_micro": _make_score("F1, micro", "higher", "every decision counts the same"),
    "f1_weighted": _make_score("F1, weighted", "higher", "labels count by their rows"),
    "matthews_correlation": _make_score("Matthews correlation", "higher", "0 is guessing, 1 is right throughout"),
    "roc_auc": _make_score("ROC AUC", "higher", "0.5 is guessing"),
    "pr_auc": _make_score("PR AUC", "higher"),
    "precision_macro": _make_score("precision, macro", "higher"),
    "recall_macro": _make_score("recall, macro", "higher"),
    "log_loss": MetricInfo("loss after scaling", "{:.4f}", "lower", "the loss with the temperature that is saved"),
    "expected_calibration_error": _make_score(
        "calibration error", "lower", "how far scores are from how often they hold"
    ),
    "log_loss_before_scaling": MetricInfo("loss", "{:.4f}", "lower"),
    "expected_calibration_error_before_scaling": _make_score("calibration error before scaling", "lower"),
    "precision": _make_score("precision", "higher"),
    "recall": _make_score("recall", "higher"),
    "f1": _make_score("F1", "higher"),
    "mae": MetricInfo("mean absolute error", "{:.4g}", "lower"),
    "mse": MetricInfo("mean squared error", "{:.4g}", "lower"),
    "r2": MetricInfo("R²", "{:.3f}", "higher", "share of the variance explained"),
    "pearson": _make_score("Pearson correlation", "higher"),
}

# One figure under two names in report.json: that of the logits as they were trained. Shown once, as the second.
SAME_FIGURES = {"log_loss_before_scaling": "loss"}

# The first of these that a split has are its headline; a comparison of runs is decided by the first they share.
HEADLINE_METRICS = (
    *("accuracy", "f1_macro", "matthews_correlation", "expected_calibration_error"),
    *("exact_match", "token_f1", "loss", "perplexity", "token_accuracy", "bits_per_byte", "mae", "r2", "pearson"),
)

# What `compute_metrics` returns at each evaluation during training, by task: the values that
# metric_for_best_model may have.
EVAL_TOKEN_METRICS = ("loss", "perplexity", "token_accuracy", "bits_per_byte")
EVAL_LABEL_METRICS = (
    *("loss", "accuracy", "balanced_accuracy", "f1_macro", "f1_micro", "f1_weighted"),
    *("matthews_correlation", "roc_auc"),
)
EVAL_REGRESSION_METRICS = ("loss", "mae", "r2", "pearson")

# Learning rate schedules that step on metric_for_best_model.
METRIC_SCHEDULES = ("reduce_lr_on_plateau", "greedy")
# Those that take no warm-up.
SCHEDULES_WITHOUT_WARMUP = ("constant", *METRIC_SCHEDULES)

# Our names -> those of https://huggingface.co/metrics, where they differ. Several of ours may be one of theirs.
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


def get_metric_info(name: str) -> MetricInfo:
    """The entry of `name`; of an unknown metric one with its own name as title, and no direction."""
    return METRICS.get(name) or MetricInfo(name.replace("_", " "), "{:.4g}", "neither")


def get_best_metric(train: Mapping[str, Any]) -> str | None:
    """`metric_for_best_model` of the section `train`, without `eval_`; None where no setting needs one.

    Defaults to the loss, as transformers does with `load_best_model_at_end`.
    """
    name = train.get("metric_for_best_model")
    if name is not None:
        return str(name).removeprefix("eval_")
    asked = train.get("load_best_model_at_end") or train.get("lr_scheduler_type") in METRIC_SCHEDULES
    return "loss" if asked else None


def parse_number(value: Any) -> float | None:
    """Parse a number of a JSON file; None for any other value.

    "nan", "inf" and "-inf" are numbers here: report.json spelled them so before it had null for them.
    """
    # True is an int in Python, and "1.5" is a text that happens to look like a number: neither is a metric.
    if isinstance(value, bool) or not isinstance(value, int | float | str):
        return None
    if isinstance(value, str) and value.lower() not in ("nan", "inf", "-inf"):
        return None
    try:
        return float(value)
    except OverflowError:  # an integer of hundreds of digits
        return math.inf if value > 0 else -math.inf  # type: ignore[operator]


def format_metric(name: str, value: Any) -> str:
    """Format a metric's value: `93.1%`, `not defined` for NaN, and a dash where there is no number."""
    found = parse_number(value)
    if found is None:
        return "–"
    if not math.isfinite(found):
        return "not defined" if math.isnan(found) else str(found)
    return f"{found:.3g}" if abs(found) >= MAX_PLAIN_VALUE else get_metric_info(name).style.format(found)


def format_share(share: float, decimals: int = 2) -> str:
    """Format a share of 1 in percent, with two digits that count at least: little is not nothing."""
    # 0.0000339 -> 0.0034%, and not 0.00%.
    if share > 0:
        decimals = max(decimals, 1 - math.floor(math.log10(100 * share)))
    return f"{100 * share:.{decimals}f}%"


def format_size(name: str, size: float) -> str:
    """Format how large a difference is: `6.1 points` of a share, else as the metric itself."""
    return f"{100 * size:.1f} points" if get_metric_info(name).style == "{:.1%}" else format_metric(name, size)


def say_count(number: int, noun: str) -> str:
    """`1 step`, `2,000 steps`, `2 training losses`."""
    return f"{number:,} {noun}{'' if number == 1 else 'es' if noun.endswith('s') else 's'}"


def choose_verb(number: int, one: str, several: str) -> str:
    """The verb that goes with so many: `choose_verb(1, "is", "are")`."""
    return one if number == 1 else several


def format_interval(name: str, interval: Any) -> str:
    """Format a confidence interval: `91.2% to 95.0%`; "" where there is none, or where it has no width."""
    # Rows that are all right or all wrong give every resample the same value: [1.0, 1.0] is no certainty.
    ends = [parse_number(end) for end in interval] if isinstance(interval, list | tuple) else []
    if len(ends) != 2 or ends[0] is None or ends[1] is None or not all(map(math.isfinite, (ends[0], ends[1]))):
        return ""
    if math.isclose(ends[0], ends[1], rel_tol=1e-9, abs_tol=1e-12):  # 0.8 and 0.8000000000000002
        return ""
    return f"{format_metric(name, ends[0])} to {format_metric(name, ends[1])}"


def list_missing_intervals(scores: Mapping[str, Any]) -> list[str]:
    """Say which metrics of a split have no interval, and why: a sentence for each reason of its `no_interval`."""
    by_reason: dict[str, list[str]] = {}
    given = scores.get("no_interval")
    for name, reason in given.items() if isinstance(given, Mapping) else ():
        by_reason.setdefault(str(reason), []).append(get_metric_info(str(name)).title)
    return [f"{'; '.join(titles)}: {reason}" for reason, titles in by_reason.items()]


def select_metrics(scores: dict[str, Any]) -> dict[str, float]:
    """The scalar metrics of a split of report.json in display order, unknown ones last; without the row count.

    A figure that is there under two names comes once.
    """
    found = {
        name: value
        for name, given in scores.items()
        if name != "rows" and SAME_FIGURES.get(name) not in scores and (value := parse_number(given)) is not None
    }
    order = list(METRICS)
    return dict(sorted(found.items(), key=lambda item: order.index(item[0]) if item[0] in METRICS else len(order)))


# The metrics of a line, in order, with their formats.
METRIC_FORMATS = {
    "loss": "loss {:.4f}",
    "eval_loss": "validation loss {:.4f}",
    "eval_perplexity": "perplexity {:.2f}",
    "eval_token_accuracy": "token accuracy {:.1%}",
    "eval_bits_per_byte": "bits per byte {:.3f}",
    "eval_accuracy": "accuracy {:.1%}",
    "eval_f1_macro": "F1, macro {:.3f}",
    "eval_matthews_correlation": "Matthews correlation {:.3f}",
    "eval_mae": "mean absolute error {:.4g}",
    "grad_norm": "grad norm {:.2f}",
    "learning_rate": "lr {:.2e}",
    "tokens_seen": "{:,.0f} tokens seen",
    "tokens_per_s": "{:,.0f} tokens/s",
}


def format_metrics(logs: Mapping[str, float]) -> list[str]:
    """Format the known metrics of a log entry, in their order."""
    # {"loss": 0.25, "learning_rate": 2e-5, "epoch": 1.0} -> ["loss 0.2500", "lr 2.00e-05"]
    return [_format_logged(text, logs[name]) for name, text in METRIC_FORMATS.items() if name in logs]


def _format_logged(text: str, value: float) -> str:
    """One that is as large as of a loss that exploded in as few digits as `format_metric` has of it."""
    # "perplexity {:.2f}", 5.1e300 -> "perplexity 5.1e+300", where the format alone gives 301 digits.
    large = "," not in text and MAX_PLAIN_VALUE <= abs(value) < math.inf
    return f"{text[: text.index('{')]}{value:.3g}" if large else text.format(value)


# Probability of showing a difference of that size.
POWER = 0.8
# Family-wise error rate of a comparison: the probability of any significant difference between equal models.
ALPHA = 0.05
# Rows without which no paired test shows anything: of 5 that all changed alike 2 of 32 swaps are as extreme, 6.25 %.
MIN_PAIRS = 6


def find_detectable_share(error: float, difference: float, rows: int, level: float = ALPHA) -> float | None:
    """Find the difference of two shares of the same rows, as of right answers, that a test shows in 80 % of cases.

    The sample size of McNemar's test (Connor, 1987, Biometrics 43), solved for the difference: the share of rows on
    which the two differ is taken from the observed `difference` and its standard error, and is at least as large as
    the difference to be shown: of an `error` and `difference` of 0, as before a run, it is the least that any two
    models can show. None for fewer than six rows, and where not all of them would show one.
    """
    from statistics import NormalDist

    from scipy.optimize import brentq  # a tenth of a second, and few commands ask

    # Rows that differ by -1, 0 or 1 have a variance of their share of ones less the squared mean.
    apart = rows * error**2 + difference**2
    ends = NormalDist().inv_cdf(1 - level / 2), NormalDist().inv_cdf(POWER)

    def lack(least: float) -> float:
        share = max(apart, least)
        return ends[0] * math.sqrt(share) + ends[1] * math.sqrt(share - least**2) - least * math.sqrt(rows)

    return float(brentq(lack, 1e-9, 1.0)) if rows >= MIN_PAIRS and lack(1.0) < 0 else None
