"""Mean of the recalls of the labels: each counts the same, however rare it is.

Half for a guess between two labels, whatever their shares.

Returns:
    balanced_accuracy: from 0 to 1, over the labels that have rows; NaN without rows. Several labels: the mean over
        them, each a question of yes and no.
"""

from __future__ import annotations

from typing import Any

from .base import LabelMetric
from .classification_functions import compute_balanced_accuracy, score_labels


class BalancedAccuracy(LabelMetric):
    def _compute(self, predictions: list[Any], references: list[Any]) -> dict[str, float]:
        return {"balanced_accuracy": score_labels(compute_balanced_accuracy, predictions, references)}
