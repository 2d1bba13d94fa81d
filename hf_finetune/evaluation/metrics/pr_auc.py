"""Mean precision over the recalls (average precision): area under the precision-recall curve.

The label's share for a guess; thresholds do not matter.

Args:
    average: "macro", the mean over the labels (of two: the second label's alone), or None for each label.
Returns:
    pr_auc: from 0 to 1, a list without average. A label that no row has, has no area: it is NaN, and left out of
        the mean.
"""

from __future__ import annotations

from typing import Any

from .base import ScoreMetric
from .probability_functions import compute_pr_auc


class PrAuc(ScoreMetric):
    def _compute(
        self, prediction_scores: list[list[float]], references: list[Any], average: str | None = "macro"
    ) -> dict[str, Any]:
        return {"pr_auc": compute_pr_auc(prediction_scores, references, average)}
