"""Share of the rows that were predicted correctly; with several labels, in each of them (exact match).

Returns:
    accuracy: from 0 to 1, NaN without rows.
"""

from __future__ import annotations

from typing import Any

from .base import LabelMetric
from .classification_functions import compute_accuracy, score_labels


class Accuracy(LabelMetric):
    def _compute(self, predictions: list[Any], references: list[Any]) -> dict[str, float]:
        return {"accuracy": score_labels(compute_accuracy, predictions, references)}
