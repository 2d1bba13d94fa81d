"""Fit a classifier's decision to the validation split: a temperature for probabilities, thresholds for labels."""

from __future__ import annotations

import logging
import math
from dataclasses import replace
from typing import Any

import numpy as np
import numpy.typing as npt

from hf_finetune.config.sections import EvalSection
from hf_finetune.evaluation.classification.confusion_counts import ThresholdMetric, compute_score
from hf_finetune.evaluation.classification.metrics import ClassifierOutputs, compute_log_loss, make_default_decision
from hf_finetune.evaluation.classification.thresholds import find_thresholds
from hf_finetune.evaluation.metrics.classification_functions import count_labels
from hf_finetune.label_set import Labels
from hf_finetune.models.decision import Decision

logger = logging.getLogger(__name__)

Array = npt.NDArray[np.float64]

MIN_TEMPERATURE, MAX_TEMPERATURE = 0.05, 20.0


def fit_decision(outputs: ClassifierOutputs | None, labels: Labels, settings: EvalSection) -> Decision | None:
    """Fit what `eval.calibrate` and `eval.threshold_metric` ask for to the outputs of the validation split.

    Returns None for a regression, which has no decision, and without a validation split: nothing is ever fitted to test
    rows. Thresholds never lower the metric on validation.
    """
    if labels.kind == "number":
        return None
    if outputs is None:
        logger.info("no validation split: probabilities are not calibrated, and the likeliest label is chosen")
        return None
    decision = make_default_decision(labels)
    if settings.calibrate:
        decision = replace(decision, temperature=fit_temperature(outputs))
        _log_temperature(outputs, decision.temperature)
    if settings.threshold_metric is not None:
        tuned = tune_thresholds(outputs, decision, settings.threshold_metric)
        _log_thresholds(outputs, decision, tuned)
        decision = tuned
    return decision


def fit_temperature(outputs: ClassifierOutputs) -> float:
    """Fit the temperature that minimizes the log-loss (Guo et al., 2017, arXiv 1706.04599), between 0.05 and 20.

    The loss is smoothed by two rows, one correct and one wrong (Laplace's rule of succession; Platt, 1999, smooths his
    targets alike): a few rows that are all correct would otherwise give the lowest temperature. With many rows the two
    weigh nothing.
    """
    from scipy.optimize import minimize_scalar

    # The log-loss is convex in 1 / temperature, so that it has a single minimum over log(temperature), too.
    def cost(logarithm: float) -> float:
        return compute_smoothed_log_loss(outputs, math.exp(logarithm))

    bounds = (math.log(MIN_TEMPERATURE), math.log(MAX_TEMPERATURE))
    found = float(minimize_scalar(cost, bounds=bounds, method="bounded", options={"xatol": 1e-6}).x)
    return math.exp(found) if cost(found) < cost(0.0) else 1.0


def compute_smoothed_log_loss(outputs: ClassifierOutputs, temperature: float) -> float:
    """Compute the mean log-loss at `temperature` with two average rows more: one correct, and one wrong."""
    logits, references, rows = outputs.logits / temperature, outputs.references, len(outputs.references)
    wrong = 1 - references if references.ndim == 2 else _select_likeliest_wrong(logits, references)
    return ((rows + 1) * compute_log_loss(logits, references) + compute_log_loss(logits, wrong)) / (rows + 2)


def _select_likeliest_wrong(logits: Array, references: npt.NDArray[Any]) -> npt.NDArray[np.int64]:
    """(rows, labels), (rows,) -> (rows,): the label with the largest logit that is not the reference."""
    others = logits.copy()
    others[np.arange(len(others)), references] = -np.inf
    return np.asarray(others.argmax(axis=1), dtype=np.int64)


def tune_thresholds(outputs: ClassifierOutputs, decision: Decision, metric: ThresholdMetric) -> Decision:
    """Return `decision` with the thresholds that maximize `metric`; with even ones if none are better."""
    even = replace(decision, thresholds=(), metric=metric)
    thresholds = find_thresholds(outputs.logits, outputs.references, even, metric)
    tuned = replace(even, thresholds=tuple(thresholds.tolist()))
    return tuned if score_decision(outputs, tuned, metric) > score_decision(outputs, even, metric) + 1e-12 else even


def score_decision(outputs: ClassifierOutputs, decision: Decision, metric: ThresholdMetric) -> float:
    """Compute `metric` of the labels that `decision` chooses."""
    chosen = decision.choose(decision.compute_probabilities(outputs.logits))
    return float(compute_score(metric, count_labels(chosen, outputs.references)))


def _log_temperature(outputs: ClassifierOutputs, temperature: float) -> None:
    before, after = (compute_log_loss(outputs.logits / each, outputs.references) for each in (1.0, temperature))
    logger.info("temperature %.3f: log-loss on validation %.4f, before %.4f", temperature, after, before)
    if not MIN_TEMPERATURE * 1.001 < temperature < MAX_TEMPERATURE / 1.001:
        logger.warning("the temperature is at its bound: the logits say next to nothing about validation")


def _log_thresholds(outputs: ClassifierOutputs, before: Decision, tuned: Decision) -> None:
    metric: Any = tuned.metric
    values = [score_decision(outputs, each, metric) for each in (tuned, before)]
    if tuned.thresholds == before.thresholds:
        logger.info("thresholds: none are better for %s on validation (%.4f) than even ones", metric, values[1])
        return
    each = ", ".join(f"{label} {value:.3f}" for label, value in zip(tuned.labels, tuned.thresholds, strict=True))
    logger.info("thresholds for %s on validation, %.4f, before %.4f: %s", metric, *values, each)
