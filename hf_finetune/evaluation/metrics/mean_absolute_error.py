"""Mean of the absolute errors. In the unit of the numbers.

Returns:
    mean_absolute_error: 0 or more, NaN without rows.
"""

from __future__ import annotations

from .base import NumberMetric
from .regression_functions import compute_mean_absolute_error


class MeanAbsoluteError(NumberMetric):
    def _compute(self, predictions: list[float], references: list[float]) -> dict[str, float]:
        return {"mean_absolute_error": compute_mean_absolute_error(predictions, references)}
