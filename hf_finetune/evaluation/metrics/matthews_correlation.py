"""Correlation between predicted and true labels: 0 for a guess, whatever the shares of the labels.

Matthews (1975), for more than two labels Gorodkin (2004).

Returns:
    matthews_correlation: from -1 to 1, 0 where all rows have, or were predicted, one label; NaN without rows.
        Several labels: the mean over them, each a question of yes and no.
"""

from __future__ import annotations

from typing import Any

from .base import LabelMetric
from .classification_functions import compute_matthews_correlation, score_labels


class MatthewsCorrelation(LabelMetric):
    def _compute(self, predictions: list[Any], references: list[Any]) -> dict[str, float]:
        return {"matthews_correlation": score_labels(compute_matthews_correlation, predictions, references)}
