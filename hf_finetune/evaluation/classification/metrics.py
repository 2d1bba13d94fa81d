"""A classifier's logits -> its metrics: while it trains, and for the report with intervals and by label."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import numpy.typing as npt
from datasets import Dataset
from transformers import EvalPrediction, Trainer

from hf_finetune.errors import NonFiniteError, Problem
from hf_finetune.evaluation.classification.confusion_counts import compute_scores
from hf_finetune.evaluation.classification.intervals import compute_label_intervals
from hf_finetune.evaluation.classification.statistics import make_regression_statistic
from hf_finetune.evaluation.metrics.classification_functions import (
    compute_f1,
    compute_precision,
    compute_recall,
    count_confusions,
    count_labels,
)
from hf_finetune.evaluation.metrics.probability_functions import (
    CALIBRATION_BINS,
    assign_bins,
    average_log_loss,
    compute_calibration_error,
    compute_pr_auc,
    compute_roc_auc,
    select_answers,
)
from hf_finetune.evaluation.metrics.regression_functions import (
    compute_mean_absolute_error,
    compute_mean_squared_error,
    compute_pearson,
    compute_r2,
)
from hf_finetune.evaluation.statistics.bootstrap import Groups, number_groups
from hf_finetune.evaluation.statistics.intervals import compute_intervals
from hf_finetune.label_set import Labels
from hf_finetune.metric_info import EVAL_LABEL_METRICS
from hf_finetune.models.decision import Decision

Array = npt.NDArray[np.float64]
Integers = npt.NDArray[np.int64]

# The order of report.json; intervals have that of `COUNT_METRICS`.
FIRST_METRICS = ("accuracy", "balanced_accuracy", "matthews_correlation")


@dataclass(frozen=True)
class ClassifierOutputs:
    """The logits of the rows of a split beside their references, in the order of the rows."""

    logits: Array
    """(rows, labels); a regression has one column."""
    references: npt.NDArray[Any]
    """Class numbers (rows,), 0 and 1 for each label (rows, labels), or numbers (rows,)."""
    groups: Groups | None = None
    """The group of each row by `data.group_by`, (rows,); None where rows are on their own."""

    def select_rows(self, rows: npt.NDArray[Any]) -> ClassifierOutputs:
        """Select rows by number, (selected,), or by a mask, (rows,)."""
        groups = None if self.groups is None else number_groups(self.groups[rows])
        return ClassifierOutputs(self.logits[rows], self.references[rows], groups)


def predict_split(trainer: Trainer, rows: Dataset, groups: Groups | None = None) -> ClassifierOutputs:
    """Predict `rows` (as the trainer takes them, with `labels` and `length`); every rank calls it and gets all.

    `groups` is the group of each row, (rows,), where they come in groups.

    Raises `NonFiniteError` for NaN or infinite logits.
    """
    columns = rows.with_format("numpy")
    references = np.asarray(columns["labels"][:])
    order = np.argsort(-np.asarray(columns["length"][:]), kind="stable")  # longest first: little padding
    predicted = trainer.predict(rows.select(order))
    logits = np.asarray(_select_logits(predicted.predictions), dtype=np.float64)
    # The Trainer drops the rows that pad the last batch of several processes; a row out of place would be a bug.
    returned = np.asarray(predicted.label_ids)
    if not np.array_equal(returned, references[order].astype(returned.dtype)):
        raise RuntimeError("the Trainer did not give each row once, in the order of its data set")
    broken = int((~np.isfinite(logits)).any(axis=1).sum())
    if broken:
        remedy = "train in float32 or with train.bf16, and with a lower train.learning_rate"
        raise NonFiniteError(
            Problem(f"the model's answer to {broken:,} of {len(logits):,} rows is no number", remedy, code="HF513")
        )
    in_place = np.empty_like(logits)
    in_place[order] = logits
    whole = references.dtype == np.int64 or references.ndim == 2
    return ClassifierOutputs(in_place, references.astype(np.int64 if whole else np.float64), groups)


def predict_saved(
    trainer: Trainer, rows: Mapping[str, Dataset], outputs: dict[str, ClassifierOutputs], rounded: Decision | None
) -> dict[str, ClassifierOutputs]:
    """Predict the rows of each split of `outputs` again where the head was `rounded` as it was saved with the decision.

    Their logits are then those that the saved model stands for; elsewhere `outputs` are. Every rank calls it.
    """
    if rounded is None:
        return outputs
    again = {name: predict_split(trainer, rows[name], found.groups) for name, found in outputs.items()}
    return {name: replace(found, logits=rounded.restore_logits(found.logits)) for name, found in again.items()}


def compute_log_loss(logits: Array, references: npt.NDArray[Any]) -> float:
    """Compute the mean negative log-likelihood in nats from logits, (rows, labels), however large.

    `references`: (rows,), or (rows, labels) for multi-label: the mean over rows and labels.
    """
    return float(compute_row_losses(logits, references).mean())


def compute_row_losses(logits: Array, references: npt.NDArray[Any]) -> Array:
    """Compute the log-loss of each row, (rows,), for multi-label its mean over labels; as `compute_log_loss`."""
    if references.ndim == 2:
        return np.asarray(np.logaddexp(0.0, np.where(references > 0, -logits, logits)).mean(axis=1))
    highest = logits.max(axis=1, keepdims=True)
    log_sums = np.log(np.exp(logits - highest).sum(axis=1)) + highest[:, 0]
    return np.asarray(log_sums - logits[np.arange(len(logits)), references])


def classification_metrics(labels: Labels) -> Callable[[EvalPrediction], dict[str, float]]:
    """Make the Trainer's `compute_metrics` for logits (rows, labels): the loss and the metrics that take little time.

    The loss is without class weights, focal loss or label smoothing, so that runs compare, and replaces the Trainer's,
    which is a mean of batch means. All are NaN if a logit is not finite.
    """

    def compute(prediction: EvalPrediction) -> dict[str, float]:
        logits = np.asarray(_select_logits(prediction.predictions), dtype=np.float64)
        references = np.asarray(prediction.label_ids)
        if labels.kind == "number":
            return compute_regression_metrics(logits[:, 0], references.astype(np.float64))
        if not np.isfinite(logits).all():
            return dict.fromkeys(EVAL_LABEL_METRICS, float("nan"))
        return compute_training_metrics(labels, ClassifierOutputs(logits, references.astype(np.int64)))

    return compute


def compute_training_metrics(labels: Labels, outputs: ClassifierOutputs) -> dict[str, float]:
    """Compute the metrics of `OF_LABELS`, with the likeliest label, or each likelier than not, as prediction."""
    decision = make_default_decision(labels)
    probabilities = decision.compute_probabilities(outputs.logits)
    figures = compute_label_metrics(labels, probabilities, decision.choose(probabilities), outputs.references)
    figures["loss"] = compute_log_loss(outputs.logits, outputs.references)
    return {name: figures[name] for name in EVAL_LABEL_METRICS}


def make_default_decision(labels: Labels) -> Decision:
    """Decide for the likeliest label, or each likelier than not. Raises `ValueError` for a regression."""
    if labels.kind == "number":
        raise ValueError("a regression has no decision")
    return Decision(labels.names, labels.kind)


def score_outputs(outputs: ClassifierOutputs, labels: Labels, decision: Decision | None) -> dict[str, Any]:
    """Compute the metrics of a split for the report: flat ones, then intervals and those by label.

    `loss` is of the logits as they were trained; the others are of the probabilities and labels of `decision`, by
    default `make_default_decision`. JSON-ready but for NaN: a metric that is not defined for these rows.
    """
    if labels.kind == "number":
        return _score_numbers(outputs)
    before, decision = (
        make_default_decision(labels).compute_probabilities(outputs.logits),
        decision or make_default_decision(labels),
    )
    probabilities = decision.compute_probabilities(outputs.logits)
    chosen, references = decision.choose(probabilities), outputs.references
    figures = compute_label_metrics(labels, probabilities, chosen, references) | {
        f"{name}_before_scaling": value for name, value in compute_calibration_metrics(before, references).items()
    }
    return {
        "loss": compute_log_loss(outputs.logits, references),
        **figures,
        **compute_label_intervals(labels, probabilities, chosen, references, outputs.groups),
        "per_class": compute_per_class_metrics(labels, probabilities, chosen, references),
        "confusion_matrix": compute_confusion_matrix(labels, chosen, references),
        "reliability": compute_reliability(probabilities, references),
    }


def _score_numbers(outputs: ClassifierOutputs) -> dict[str, Any]:
    predicted, references = outputs.logits[:, 0], outputs.references
    statistic = make_regression_statistic(predicted, references)
    intervals = compute_intervals(statistic, len(references), groups=outputs.groups)
    return {**compute_regression_metrics(predicted, references), **intervals}


def compute_regression_metrics(predicted: Array, references: Array) -> dict[str, float]:
    """Compute the metrics of a regression, (rows,) each; all are NaN if a prediction is not finite."""
    formulas = {
        "loss": compute_mean_squared_error,
        "mae": compute_mean_absolute_error,
        "r2": compute_r2,
        "pearson": compute_pearson,
    }
    if not np.isfinite(predicted).all():
        return dict.fromkeys(formulas, float("nan"))
    return {name: formula(predicted, references) for name, formula in formulas.items()}


def compute_label_metrics(
    labels: Labels, probabilities: Array, chosen: Integers, references: Integers
) -> dict[str, float]:
    """Compute every flat metric: `probabilities` (rows, labels); the others (rows,), or (rows, labels) for multi-label.

    Raises `ValueError` without rows.
    """
    scores = compute_scores(count_labels(chosen, references))
    return {
        **{name: float(scores[name]) for name in dict.fromkeys((*FIRST_METRICS, *scores))},
        "roc_auc": compute_roc_auc(probabilities, references),
        "pr_auc": compute_pr_auc(probabilities, references),
        **compute_calibration_metrics(probabilities, references),
    }


def compute_calibration_metrics(probabilities: Array, references: Integers) -> dict[str, float]:
    """Compute what depends on the temperature: (rows, labels), (rows,) or (rows, labels)."""
    return {
        "log_loss": average_log_loss(probabilities, references),
        "expected_calibration_error": compute_calibration_error(probabilities, references),
    }


def compute_per_class_metrics(
    labels: Labels, probabilities: Array, chosen: Integers, references: Integers
) -> dict[str, dict[str, float]]:
    """Compute the metrics of each label; shapes as for `compute_label_metrics`, (rows, labels) and (rows,).

    A ratio with denominator 0 is 0; an area that is not defined is NaN.
    """
    counts = count_labels(chosen, references, range(len(labels.names)))
    columns: dict[str, list[float]] = {
        "precision": compute_precision(counts, None).tolist(),
        "recall": compute_recall(counts, None).tolist(),
        "f1": compute_f1(counts, None).tolist(),
        "support": counts.support.astype(np.int64).tolist(),
        "roc_auc": compute_roc_auc(probabilities, references, None),
        "pr_auc": compute_pr_auc(probabilities, references, None),
    }
    return {
        label: {name: column[number] for name, column in columns.items()} for number, label in enumerate(labels.names)
    }


def compute_confusion_matrix(labels: Labels, chosen: Integers, references: Integers) -> dict[str, Any]:
    """Count rows by reference (down) and prediction (across): (labels, labels), for multi-label (labels, 2, 2)."""
    return {
        "labels": list(labels.names),
        "counts": count_confusions(chosen, references, list(range(len(labels.names)))),
    }


def compute_reliability(probabilities: Array, references: Integers) -> list[dict[str, float]]:
    """Compute mean confidence and accuracy of each bin of the calibration error; bins without answers are left out.

    Shapes: (rows, labels), (rows,) or (rows, labels).
    """
    confidence, truth = (each.ravel() for each in select_answers(probabilities, references))
    answers, sums, hits = (
        np.bincount(assign_bins(confidence), weights=weights, minlength=CALIBRATION_BINS)
        for weights in (None, confidence, truth)
    )
    return [
        {"confidence": sums[each] / answers[each], "accuracy": hits[each] / answers[each], "rows": int(answers[each])}
        for each in np.flatnonzero(answers)
    ]


def _select_logits(predictions: Any) -> Any:
    return predictions[0] if isinstance(predictions, tuple) else predictions  # hidden states may follow
