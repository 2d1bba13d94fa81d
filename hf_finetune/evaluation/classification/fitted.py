"""The figures of rows that temperature and thresholds were fitted to, and those of other rows, by cross-fitting."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import numpy as np

from hf_finetune.evaluation.classification.calibration import cross_fit
from hf_finetune.evaluation.classification.intervals import compute_label_intervals
from hf_finetune.evaluation.classification.metrics import ClassifierOutputs, compute_label_metrics
from hf_finetune.label_set import Labels
from hf_finetune.metric_info import format_metric, get_metric_info
from hf_finetune.models.decision import Decision

# What a sentence tells of the cross-fitted figures.
TOLD = ("accuracy", "f1_macro", "balanced_accuracy", "matthews_correlation", "log_loss")


def score_fitted(outputs: ClassifierOutputs, labels: Labels, decision: Decision) -> dict[str, Any]:
    """Compute `fitted`, `intervals` and `no_interval` of the split that `decision` was fitted to; {} if it was not.

    The figures of these rows flatter: their intervals are those of the cross-fitted figures, in `fitted.cross_fitted`,
    for which each row was decided by what the other rows gave. `fitted.words` says so in a sentence.
    """
    crossed = cross_fit(outputs, decision)
    if crossed is None:
        return {}
    figures = compute_label_metrics(labels, crossed.probabilities, crossed.chosen, outputs.references)
    intervals = compute_label_intervals(
        labels, crossed.probabilities, crossed.chosen, outputs.references, outputs.groups
    )
    intervals["intervals"] = _widen_intervals(intervals["intervals"], figures, outputs, labels, crossed.decisions)
    is_fitted = {"temperature": decision.temperature != 1, "thresholds": decision.has_thresholds}
    fitted = [name for name, given in is_fitted.items() if given]
    told = ", ".join(f"{get_metric_info(name).title} {format_metric(name, figures[name])}" for name in TOLD)
    verb = "was" if fitted == ["temperature"] else "were"
    words = f"{' and '.join(fitted)} {verb} fitted to these rows, and their intervals are cross-fitted: {told}"
    return {"fitted": {"fitted": fitted, "cross_fitted": figures, "words": [words]}, **intervals}


def _widen_intervals(
    intervals: dict[str, list[float]],
    figures: dict[str, float],
    outputs: ClassifierOutputs,
    labels: Labels,
    decisions: Sequence[Decision],
) -> dict[str, list[float]]:
    """Widen intervals by what other rows would have changed in the decision: of the rows they know, not of the fit.

    The jackknife of the folds: how much a figure of all rows moves from one of the `decisions` to the next.
    """
    # An interval of 0.80 to 0.88 around 0.84 has an error of 0.02; if decisions add another of 0.02, the widths grow by
    # the root of 2.
    moved = []
    for decision in decisions:
        probabilities = decision.compute_probabilities(outputs.logits)
        moved.append(compute_label_metrics(labels, probabilities, decision.choose(probabilities), outputs.references))
    widened = {}
    for name, (low, high) in intervals.items():
        spread = np.array([each[name] for each in moved])
        fitting, known = (len(spread) - 1) * float(np.var(spread)), ((high - low) / (2 * 1.96)) ** 2
        factor = math.sqrt(1 + fitting / known) if known else 1.0
        point, most = figures[name], 1.0 if get_metric_info(name).unit_scale else math.inf
        least = -1.0 if name == "matthews_correlation" else 0.0
        widened[name] = [max(least, point - factor * (point - low)), min(most, point + factor * (high - point))]
    return widened
