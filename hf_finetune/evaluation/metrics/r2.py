"""Coefficient of determination of a regression."""

from __future__ import annotations

import math

import datasets
import evaluate

DESCRIPTION = "Share of the variance of the numbers given that the prediction explains (coefficient of determination)."
INPUTS = """
Args:
    predictions: for each row, the number predicted.
    references: for each row, the number given.
Returns:
    r2: 1 at best, 0 for their mean, negative below; NaN where they are all the same.
"""


class R2(evaluate.Metric):  # type: ignore[misc]
    """Of the split's own mean, as scikit-learn's."""

    def _info(self) -> evaluate.MetricInfo:
        features = datasets.Features(predictions=datasets.Value("float64"), references=datasets.Value("float64"))
        return evaluate.MetricInfo(description=DESCRIPTION, citation="", inputs_description=INPUTS, features=features)

    def _compute(self, predictions: list[float], references: list[float]) -> dict[str, float]:
        from sklearn.metrics import r2_score

        return {"r2": float(r2_score(references, predictions)) if len({*references}) > 1 else math.nan}
