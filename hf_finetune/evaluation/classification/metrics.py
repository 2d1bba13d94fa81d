"""Logits of a classifier -> its figures, with intervals, for each label, and as the report has them."""

from __future__ import annotations

import tempfile
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt
from datasets import Dataset
from transformers import EvalPrediction, Trainer

from hf_finetune.errors import NonFiniteError, Problem
from hf_finetune.evaluation.classification.statistics import make_label_statistic, make_regression_statistic
from hf_finetune.evaluation.statistics.bootstrap import compute_intervals
from hf_finetune.label_set import Labels
from hf_finetune.metric_info import OF_LABELS
from hf_finetune.models.decision import Decision

Array = npt.NDArray[np.float64]
Integers = npt.NDArray[np.int64]

RELIABILITY_BINS = 15


@dataclass(frozen=True)
class ClassifierOutputs:
    """What a classifier says of the rows of a split, and what they were given, in the order of the rows."""

    logits: Array
    """(rows, labels); a regression has one column."""
    references: npt.NDArray[Any]
    """Class numbers (rows,), 0 and 1 for each label (rows, labels), or numbers (rows,)."""


def predict_split(trainer: Trainer, rows: Dataset) -> ClassifierOutputs:
    """The logits of `rows` (as the trainer takes them, with `labels` and `length`); every rank calls it and gets all.

    Rows are fed longest first, which wastes little on padding. Raises `NonFiniteError` for logits that are no numbers.
    """
    columns = rows.with_format("numpy")
    references = np.asarray(columns["labels"][:])
    order = np.argsort(-np.asarray(columns["length"][:]), kind="stable")
    predicted = trainer.predict(rows.select(order))
    logits = np.asarray(_logits_of(predicted.predictions), dtype=np.float64)
    # The Trainer drops the rows that fill up the last batch of several processes; a row out of its place is a bug.
    fed = np.asarray(predicted.label_ids)
    if not np.array_equal(fed, references[order].astype(fed.dtype)):
        raise RuntimeError("the Trainer did not give each row once, in the order of its data set")
    broken = int((~np.isfinite(logits)).any(axis=1).sum())
    if broken:
        remedy = "train in float32 or with train.bf16, and with a lower train.learning_rate"
        raise NonFiniteError(Problem(f"the model's answer to {broken:,} of {len(logits):,} rows is no number", remedy))
    in_place = np.empty_like(logits)
    in_place[order] = logits
    whole = references.dtype == np.int64 or references.ndim == 2
    return ClassifierOutputs(in_place, references.astype(np.int64 if whole else np.float64))


def compute_log_loss(logits: Array, references: npt.NDArray[Any]) -> float:
    """Mean negative log-likelihood in nats, over rows; over rows and labels where each label is a question."""
    if references.ndim == 2:
        return float(np.logaddexp(0.0, np.where(references > 0, -logits, logits)).mean())
    highest = logits.max(axis=1, keepdims=True)
    normaliser = np.log(np.exp(logits - highest).sum(axis=1)) + highest[:, 0]
    return float((normaliser - logits[np.arange(len(logits)), references]).mean())


def classification_metrics(labels: Labels) -> Callable[[EvalPrediction], dict[str, float]]:
    """Make the Trainer's `compute_metrics`: the mean loss over rows, and the figures that cost little.

    The loss is that of the labels alone (without class weights, focusing or smoothing), so that runs compare, and
    takes the place of the Trainer's, which is a mean of the means of batches. All are NaN where a logit is.
    """

    def compute(prediction: EvalPrediction) -> dict[str, float]:
        logits = np.asarray(_logits_of(prediction.predictions), dtype=np.float64)
        references = np.asarray(prediction.label_ids)
        if labels.kind == "number":
            return compute_regression_metrics(logits[:, 0], references.astype(np.float64))
        if not np.isfinite(logits).all():
            return dict.fromkeys(OF_LABELS, float("nan"))
        return compute_training_metrics(labels, ClassifierOutputs(logits, references.astype(np.int64)))

    return compute


def compute_training_metrics(labels: Labels, outputs: ClassifierOutputs) -> dict[str, float]:
    decision = make_default_decision(labels)
    probabilities = decision.compute_probabilities(outputs.logits)
    figures = compute_label_metrics(labels, probabilities, decision.choose(probabilities), outputs.references)
    figures["loss"] = compute_log_loss(outputs.logits, outputs.references)
    return {name: figures[name] for name in OF_LABELS}


def make_default_decision(labels: Labels) -> Decision:
    """The likeliest label, or each that is likelier than not. Raises `ValueError` for a regression."""
    if labels.kind == "number":
        raise ValueError("a regression decides nothing")
    return Decision(labels.names, labels.kind)


def score_outputs(outputs: ClassifierOutputs, labels: Labels, decision: Decision | None) -> dict[str, Any]:
    """The figures of a split for the report: flat ones first, then intervals and what is there for each label.

    `loss` is of the logits as they were trained; the others are of the probabilities and labels of `decision`, by
    default the plain ones. JSON-ready but for NaN, which says that a figure is not defined for these rows.
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
        f"{name}_before_scaling": value
        for name, value in compute_calibration_metrics(labels, before, references).items()
    }
    statistic = make_label_statistic(decision.kind, probabilities, chosen, references)
    return {
        "loss": compute_log_loss(outputs.logits, references),
        **figures,
        "intervals": compute_intervals(statistic, *probabilities.shape),
        "per_class": compute_per_class_metrics(labels, probabilities, chosen, references),
        "confusion_matrix": compute_confusion_matrix(labels, chosen, references),
        "reliability": compute_reliability(labels, probabilities, references),
    }


def _score_numbers(outputs: ClassifierOutputs) -> dict[str, Any]:
    predicted, references = outputs.logits[:, 0], outputs.references
    intervals = compute_intervals(make_regression_statistic(predicted, references), len(references))
    return {**compute_regression_metrics(predicted, references), "intervals": intervals}


def compute_regression_metrics(predicted: Array, references: Array) -> dict[str, float]:
    from hf_finetune.evaluation.metrics.mean_absolute_error import MeanAbsoluteError
    from hf_finetune.evaluation.metrics.mean_squared_error import MeanSquaredError
    from hf_finetune.evaluation.metrics.pearson import Pearson
    from hf_finetune.evaluation.metrics.r2 import R2

    kinds = {"loss": MeanSquaredError, "mae": MeanAbsoluteError, "r2": R2, "pearson": Pearson}
    if not np.isfinite(predicted).all():
        return dict.fromkeys(kinds, float("nan"))
    given = {"predictions": predicted, "references": references}
    return {name: value for name, kind in kinds.items() for value in _compute(kind, None, **given).values()}


def compute_label_metrics(
    labels: Labels, probabilities: Array, chosen: Integers, references: Integers
) -> dict[str, float]:
    """Every headline figure by name, through the metric modules."""
    from hf_finetune.evaluation.metrics.accuracy import Accuracy
    from hf_finetune.evaluation.metrics.balanced_accuracy import BalancedAccuracy
    from hf_finetune.evaluation.metrics.f1 import F1
    from hf_finetune.evaluation.metrics.matthews_correlation import MatthewsCorrelation
    from hf_finetune.evaluation.metrics.pr_auc import PrAuc
    from hf_finetune.evaluation.metrics.precision import Precision
    from hf_finetune.evaluation.metrics.recall import Recall
    from hf_finetune.evaluation.metrics.roc_auc import RocAuc

    averaged: list[tuple[Any, str]] = [
        (Precision, "macro"),
        (Recall, "macro"),
        (F1, "macro"),
        (F1, "micro"),
        (F1, "weighted"),
    ]
    of_labels = {"predictions": chosen, "references": references}
    of_scores = {"prediction_scores": probabilities, "references": references}
    figures: dict[str, float] = {}
    of_counts: list[Any] = [Accuracy, BalancedAccuracy, MatthewsCorrelation]
    for kind in of_counts:
        figures |= _compute(kind, labels, **of_labels)
    for kind, average in averaged:
        found = _compute(kind, labels, **of_labels, average=average)
        figures |= {f"{name}_{average}": value for name, value in found.items()}
    for area in (RocAuc, PrAuc):
        figures |= _compute(area, labels, **of_scores)
    return figures | compute_calibration_metrics(labels, probabilities, references)


def compute_calibration_metrics(labels: Labels, probabilities: Array, references: Integers) -> dict[str, float]:
    from hf_finetune.evaluation.metrics.expected_calibration_error import ExpectedCalibrationError
    from hf_finetune.evaluation.metrics.log_loss import LogLoss

    given = {"prediction_scores": probabilities, "references": references}
    return _compute(LogLoss, labels, **given) | _compute(ExpectedCalibrationError, labels, **given)


def compute_per_class_metrics(
    labels: Labels, probabilities: Array, chosen: Integers, references: Integers
) -> dict[str, dict[str, float]]:
    """For each label its figures; NaN where neither a row nor a prediction has it."""
    from hf_finetune.evaluation.metrics.f1 import F1
    from hf_finetune.evaluation.metrics.pr_auc import PrAuc
    from hf_finetune.evaluation.metrics.precision import Precision
    from hf_finetune.evaluation.metrics.recall import Recall
    from hf_finetune.evaluation.metrics.roc_auc import RocAuc

    numbers = list(range(len(labels.names)))
    columns: dict[str, Any] = {}
    for kind in (Precision, Recall, F1):
        columns |= _compute(kind, labels, predictions=chosen, references=references, average=None, labels=numbers)
    columns["support"] = _each(labels, references).sum(axis=0).tolist()
    for kind in (RocAuc, PrAuc):
        columns |= _compute(kind, labels, prediction_scores=probabilities, references=references, average=None)
    return {
        label: {name: column[number] for name, column in columns.items()} for number, label in enumerate(labels.names)
    }


def compute_confusion_matrix(labels: Labels, chosen: Integers, references: Integers) -> dict[str, Any]:
    """Counts of rows: down what was given, across what was predicted; for several labels one of 2 by 2 for each."""
    from hf_finetune.evaluation.metrics.confusion_matrix import ConfusionMatrix

    numbers = list(range(len(labels.names)))
    counts = _compute(ConfusionMatrix, labels, predictions=chosen, references=references, labels=numbers)
    return {"labels": list(labels.names), "counts": counts["confusion_matrix"]}


def compute_reliability(labels: Labels, probabilities: Array, references: Integers) -> list[dict[str, float]]:
    """How often what had a probability of about so much was true; bins without rows are left out."""
    confidence, true = probabilities.ravel(), references.ravel()
    if labels.kind == "single":
        confidence, true = probabilities.max(axis=1), probabilities.argmax(axis=1) == references
    bins = np.clip(np.ceil(confidence * RELIABILITY_BINS) - 1, 0, RELIABILITY_BINS - 1).astype(np.int64)
    rows, sums, hits = (
        np.bincount(bins, weights=weights, minlength=RELIABILITY_BINS) for weights in (None, confidence, true)
    )
    return [
        {"confidence": sums[each] / rows[each], "accuracy": hits[each] / rows[each], "rows": int(rows[each])}
        for each in np.flatnonzero(rows)
    ]


def _each(labels: Labels, references: Integers) -> Integers:
    if labels.kind == "multi":
        return references
    return np.asarray(references[:, None] == np.arange(len(labels.names)), dtype=np.int64)


def _logits_of(predictions: Any) -> Any:
    return predictions[0] if isinstance(predictions, tuple) else predictions  # states of the model may follow


def _compute(kind: Any, of: Labels | None, /, **given: Any) -> dict[str, Any]:
    config = "multilabel" if of is not None and of.kind == "multi" else None
    # A metric makes a folder even when it keeps everything in memory.
    with tempfile.TemporaryDirectory() as folder:
        # What `compute` calls once it has put the inputs into Arrow, value by value: a minute for 100,000 rows.
        figures: dict[str, Any] = kind(config, keep_in_memory=True, cache_dir=folder)._compute(**given)
        return figures
