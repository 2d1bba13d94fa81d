"""Counts of rows by the true label (down) and the predicted label (across). As scikit-learn's.

Args:
    labels: the numbers of the labels; by default those that occur.
Returns:
    confusion_matrix: lists of counts; with several labels, for each of them [[neither, predicted], [true, both]].
"""

from __future__ import annotations

from typing import Any

from .base import LabelMetric
from .classification_functions import count_confusions


class ConfusionMatrix(LabelMetric):
    def _compute(
        self, predictions: list[Any], references: list[Any], labels: list[int] | None = None
    ) -> dict[str, list[Any]]:
        return {"confusion_matrix": count_confusions(predictions, references, labels)}
