"""Fit a classifier's decision to the validation split: a temperature for probabilities, thresholds for labels.

What is fitted is looked at on rows that it was not fitted to: folds of the split, each with what the others give. A
temperature is kept only where that lowers the log-loss.
"""

from __future__ import annotations

import logging
import math
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import numpy.typing as npt

from hf_finetune.config.sections import EvalSection
from hf_finetune.evaluation.classification.confusion_counts import ThresholdMetric, compute_score
from hf_finetune.evaluation.classification.metrics import (
    ClassifierOutputs,
    compute_log_loss,
    compute_row_losses,
    make_default_decision,
)
from hf_finetune.evaluation.classification.thresholds import find_thresholds
from hf_finetune.evaluation.metrics.classification_functions import count_labels
from hf_finetune.evaluation.statistics.bootstrap import Groups
from hf_finetune.label_set import Labels
from hf_finetune.models.decision import Decision

logger = logging.getLogger(__name__)

Array = npt.NDArray[np.float64]

Mask = npt.NDArray[np.bool_]

MIN_TEMPERATURE, MAX_TEMPERATURE = 0.05, 20.0
# Of fewer rows cross-fitting tells harm from gain too rarely.
MIN_ROWS = 10
# Before any row is seen two temperatures of three lie between 1/2 and 2: a standard deviation of their logarithm.
PRIOR_SPREAD = math.log(2)
FOLDS = 10


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
        decision = replace(decision, temperature=choose_temperature(outputs))
    if settings.threshold_metric is not None:
        tuned = tune_thresholds(outputs, decision, settings.threshold_metric)
        _log_thresholds(outputs, decision, tuned)
        decision = tuned
    return decision


def choose_temperature(outputs: ClassifierOutputs) -> float:
    """Return `fit_temperature`, or 1.0 where it does not lower the log-loss of rows that it was not fitted to.

    By cross-fitting: the rows of each fold (whole groups) are measured at the temperature of the other folds, and it is
    kept where their mean loss is lower. That charges it for what chance has fitted: a temperature that says nothing is
    worse on other rows. There is no margin on top: it would give up temperatures that help. Fewer than `MIN_ROWS` rows,
    or groups, are not fitted to.
    """
    units = _number_units(outputs)
    number = int(units.max()) + 1
    if number < MIN_ROWS:
        kind = "rows" if outputs.groups is None else "groups of rows"
        what = "no temperature: validation has %d %s, and at least %d are needed to fit one"
        logger.info(what, number, kind, MIN_ROWS)
        return 1.0
    temperature = fit_temperature(outputs)
    before, after = compute_row_losses(outputs.logits, outputs.references), np.empty(len(units))
    for held_out, others in split_folds(units):
        logits = outputs.logits[held_out] / fit_temperature(outputs.select_rows(others))
        after[held_out] = compute_row_losses(logits, outputs.references[held_out])
    kept = bool(after.mean() < before.mean())
    what = "temperature %.3f: log-loss on rows that it was not fitted to %.4f, at temperature 1 %.4f%s"
    logger.info(what, temperature, after.mean(), before.mean(), "" if kept else ": no gain, 1 is kept")
    if kept and not MIN_TEMPERATURE * 1.001 < temperature < MAX_TEMPERATURE / 1.001:
        logger.warning(
            "the temperature is at its bound: the logits say next to nothing about validation", extra={"code": "HF333"}
        )
    return temperature if kept else 1.0


def _number_units(outputs: ClassifierOutputs) -> Groups:
    return np.arange(len(outputs.references)) if outputs.groups is None else outputs.groups


def split_folds(units: Groups) -> list[tuple[Mask, Mask]]:
    """Split rows into folds, (held out, others) as masks, (rows,) each; rows of one number in `units` stay together."""
    number = int(units.max()) + 1
    folds = min(FOLDS, number)
    fold = (np.random.default_rng(0).permutation(number) % folds)[units]
    return [(fold == each, fold != each) for each in range(folds)]


@dataclass(frozen=True)
class CrossFitted:
    """What a decision gives for each row if it is fitted to other rows, as it was to all."""

    probabilities: Array
    """(rows, labels)."""
    chosen: npt.NDArray[np.int64]
    """As `Decision.choose` has them: (rows,), or (rows, labels) for multi-label."""
    decisions: tuple[Decision, ...]
    """What was fitted without each fold."""


def cross_fit(outputs: ClassifierOutputs, decision: Decision) -> CrossFitted | None:
    """Fit `decision`, which was fitted to `outputs`, again without each fold, and decide on the rows of that fold.

    None where nothing was fitted, and for a single row or group.
    """
    default = replace(decision, temperature=1.0, thresholds=())
    units = _number_units(outputs)
    if (decision.temperature == 1.0 and not decision.has_thresholds) or int(units.max()) < 1:
        return None
    probabilities, chosen = np.empty_like(outputs.logits), np.empty_like(outputs.references)
    decisions = []
    for held_out, others in split_folds(units):
        rest, fitted = outputs.select_rows(others), default
        if decision.temperature != 1.0:
            fitted = replace(fitted, temperature=fit_temperature(rest))
        if decision.has_thresholds:
            metric: Any = decision.metric
            fitted = tune_thresholds(rest, fitted, metric)
        probabilities[held_out] = fitted.compute_probabilities(outputs.logits[held_out])
        chosen[held_out] = fitted.choose(probabilities[held_out])
        decisions.append(fitted)
    return CrossFitted(probabilities, chosen, tuple(decisions))


def fit_temperature(outputs: ClassifierOutputs) -> float:
    """Fit the temperature that minimizes the log-loss (Guo et al., 2017, arXiv 1706.04599), between 0.05 and 20.

    The loss is smoothed by two rows, one correct and one wrong (Laplace's rule of succession; Platt, 1999, smooths his
    targets alike): a few rows that are all correct would otherwise give the lowest temperature. And few rows leave it
    near 1: it is the likeliest one where its logarithm is normal around 0 with `PRIOR_SPREAD`. With many rows both
    weigh nothing.
    """
    from scipy.optimize import minimize_scalar

    rows = len(outputs.references) + 2

    # Of 10 rows a temperature of 2 must lower the mean loss by 0.5 / 12 = 0.042 to be as likely as 1, of 1,000 by
    # 0.0005. The labels of a row count as one: they are rarely independent.
    def cost(logarithm: float) -> float:
        return compute_smoothed_log_loss(outputs, math.exp(logarithm)) + (logarithm / PRIOR_SPREAD) ** 2 / (2 * rows)

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


def _log_thresholds(outputs: ClassifierOutputs, before: Decision, tuned: Decision) -> None:
    metric: Any = tuned.metric
    values = [score_decision(outputs, each, metric) for each in (tuned, before)]
    if tuned.thresholds == before.thresholds:
        logger.info("thresholds: none are better for %s on validation (%.4f) than even ones", metric, values[1])
        return
    crossed = cross_fit(outputs, tuned)
    if crossed is not None:
        held_out = float(compute_score(metric, count_labels(crossed.chosen, outputs.references)))
        gain = "" if held_out > values[1] else ": they may do no better than even ones"
        logger.info("thresholds for %s on rows that they were not fitted to: %.4f%s", metric, held_out, gain)
    each = ", ".join(f"{label} {value:.3f}" for label, value in zip(tuned.labels, tuned.thresholds, strict=True))
    logger.info("thresholds for %s on validation, %.4f, before %.4f: %s", metric, *values, each)
