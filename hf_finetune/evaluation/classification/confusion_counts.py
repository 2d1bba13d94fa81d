"""The metrics that the report computes from confusion counts, by name."""

from __future__ import annotations

from collections.abc import Callable
from typing import Literal

from hf_finetune.evaluation.metrics.classification_functions import (
    Array,
    ConfusionCounts,
    compute_accuracy,
    compute_balanced_accuracy,
    compute_f1,
    compute_matthews_correlation,
    compute_precision,
    compute_recall,
)

ThresholdMetric = Literal[
    "accuracy", "balanced_accuracy", "f1_macro", "f1_micro", "f1_weighted", "matthews_correlation"
]

COUNT_METRICS: dict[str, Callable[[ConfusionCounts], Array]] = {
    "accuracy": compute_accuracy,
    "balanced_accuracy": compute_balanced_accuracy,
    "precision_macro": compute_precision,
    "recall_macro": compute_recall,
    "f1_macro": compute_f1,
    "f1_micro": lambda counts: compute_f1(counts, "micro"),
    "f1_weighted": lambda counts: compute_f1(counts, "weighted"),
    "matthews_correlation": compute_matthews_correlation,
}


def compute_score(name: str, counts: ConfusionCounts) -> Array:
    """Compute one of `COUNT_METRICS`: (labels, ...) -> (...)."""
    return COUNT_METRICS[name](counts)


def compute_scores(counts: ConfusionCounts) -> dict[str, Array]:
    """Compute all of `COUNT_METRICS`: (labels, ...) -> (...) each."""
    return {name: score(counts) for name, score in COUNT_METRICS.items()}
