"""Linear correlation between predicted and true numbers. Scale and offset do not matter.

Returns:
    pearson: from -1 to 1, NaN where either are all the same.
"""

from __future__ import annotations

from .base import NumberMetric
from .regression_functions import compute_pearson


class Pearson(NumberMetric):
    def _compute(self, predictions: list[float], references: list[float]) -> dict[str, float]:
        return {"pearson": compute_pearson(predictions, references)}
