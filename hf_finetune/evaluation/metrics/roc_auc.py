"""How often a row that has a label is scored above one that has not: area under the ROC curve.

Half for a guess; thresholds do not matter.

Args:
    average: "macro", the mean over the labels (of two: the second label's alone), or None for each label.
Returns:
    roc_auc: from 0 to 1, a list without average. A label that all rows have, or none, has no area: it is NaN,
        and left out of the mean.
"""

from __future__ import annotations

from typing import Any

from .base import ScoreMetric
from .probability_functions import compute_roc_auc


class RocAuc(ScoreMetric):
    def _compute(
        self, prediction_scores: list[list[float]], references: list[Any], average: str | None = "macro"
    ) -> dict[str, Any]:
        return {"roc_auc": compute_roc_auc(prediction_scores, references, average)}
