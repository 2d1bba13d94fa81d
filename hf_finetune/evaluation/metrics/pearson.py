"""Pearson's correlation of a regression."""

from __future__ import annotations

import math

import datasets
import evaluate
import numpy as np

DESCRIPTION = "Linear correlation between predicted and given numbers."
INPUTS = """
Args:
    predictions: for each row, the number predicted.
    references: for each row, the number given.
Returns:
    pearson: from -1 to 1, NaN where either are all the same.
"""


class Pearson(evaluate.Metric):  # type: ignore[misc]
    """Scale and offset do not matter."""

    def _info(self) -> evaluate.MetricInfo:
        features = datasets.Features(predictions=datasets.Value("float64"), references=datasets.Value("float64"))
        return evaluate.MetricInfo(description=DESCRIPTION, citation="", inputs_description=INPUTS, features=features)

    def _compute(self, predictions: list[float], references: list[float]) -> dict[str, float]:
        if len({*references}) < 2 or len({*predictions}) < 2:
            return {"pearson": math.nan}
        return {"pearson": float(np.corrcoef(references, predictions)[0, 1])}
