"""Share of the variance of the true numbers that the prediction explains (coefficient of determination).

Of the split's own mean, as scikit-learn's.

Returns:
    r2: 1 at best, 0 for their mean, negative below; NaN where they are all the same.
"""

from __future__ import annotations

from .base import NumberMetric
from .regression_functions import compute_r2


class R2(NumberMetric):
    def _compute(self, predictions: list[float], references: list[float]) -> dict[str, float]:
        return {"r2": compute_r2(predictions, references)}
