"""Share of the rows with a label that were predicted to have it, for each label or averaged, as in scikit-learn.

Args:
    average: "macro" (labels count the same), "micro" (decisions do), "weighted" (rows do), None for each label.
    labels: the numbers of the labels; by default those that occur.
Returns:
    recall: from 0 to 1, a list without average; 0 where the share is one of nothing.
"""

from __future__ import annotations

from typing import Any

from .base import LabelMetric
from .classification_functions import Average, compute_recall, score_averaged


class Recall(LabelMetric):
    def _compute(
        self, predictions: list[Any], references: list[Any], average: Average = "macro", labels: list[int] | None = None
    ) -> dict[str, Any]:
        return {"recall": score_averaged(compute_recall, predictions, references, average, labels)}
