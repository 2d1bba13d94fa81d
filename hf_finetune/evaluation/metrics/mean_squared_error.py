"""Mean of the squared errors. In squares of the unit of the numbers.

Returns:
    mean_squared_error: 0 or more, NaN without rows.
"""

from __future__ import annotations

from .base import NumberMetric
from .regression_functions import compute_mean_squared_error


class MeanSquaredError(NumberMetric):
    def _compute(self, predictions: list[float], references: list[float]) -> dict[str, float]:
        return {"mean_squared_error": compute_mean_squared_error(predictions, references)}
