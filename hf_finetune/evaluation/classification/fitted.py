"""The figures of rows that temperature and thresholds were fitted to, and those of other rows, by cross-fitting."""

from __future__ import annotations

from typing import Any

from hf_finetune.evaluation.classification.calibration import cross_fit
from hf_finetune.evaluation.classification.intervals import compute_label_intervals
from hf_finetune.evaluation.classification.metrics import ClassifierOutputs, compute_label_metrics
from hf_finetune.label_set import Labels
from hf_finetune.metric_info import format_metric, get_metric_info
from hf_finetune.models.decision import Decision

# Of these a sentence names the first that fitting has moved by more than it shows.
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
    is_fitted = {"temperature": decision.temperature != 1, "thresholds": decision.has_thresholds}
    fitted = [name for name, given in is_fitted.items() if given]
    told = ", ".join(f"{get_metric_info(name).title} {format_metric(name, figures[name])}" for name in TOLD)
    verb = "was" if fitted == ["temperature"] else "were"
    words = f"{' and '.join(fitted)} {verb} fitted to these rows, and their intervals are cross-fitted: {told}"
    return {"fitted": {"fitted": fitted, "cross_fitted": figures, "words": [words]}, **intervals}
