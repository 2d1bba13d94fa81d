"""Mean squared error of a regression."""

from __future__ import annotations

import math

import datasets
import evaluate

DESCRIPTION = "Mean of the squared errors."
INPUTS = """
Args:
    predictions: for each row, the number predicted.
    references: for each row, the number given.
Returns:
    mean_squared_error: 0 or more, NaN without rows.
"""


class MeanSquaredError(evaluate.Metric):  # type: ignore[misc]
    """In squares of the unit of the numbers."""

    def _info(self) -> evaluate.MetricInfo:
        features = datasets.Features(predictions=datasets.Value("float64"), references=datasets.Value("float64"))
        return evaluate.MetricInfo(description=DESCRIPTION, citation="", inputs_description=INPUTS, features=features)

    def _compute(self, predictions: list[float], references: list[float]) -> dict[str, float]:
        from sklearn.metrics import mean_squared_error

        return {
            "mean_squared_error": float(mean_squared_error(references, predictions)) if len(references) else math.nan
        }
