"""Accuracy of a classifier."""

from __future__ import annotations

import math
from typing import Any

import datasets
import evaluate
import numpy as np

DESCRIPTION = "Share of the rows that were predicted right; with several labels, in each of them."
INPUTS = """
Args:
    predictions: for each row, the number of its predicted label; with config "multilabel" 0 or 1 for each label.
    references: the labels given, likewise.
Returns:
    accuracy: from 0 to 1, NaN without rows.
"""


class Accuracy(evaluate.Metric):  # type: ignore[misc]
    """Exact match where rows have several labels."""

    def _info(self) -> evaluate.MetricInfo:
        number = datasets.Value("int64")
        value = datasets.Sequence(number) if self.config_name == "multilabel" else number
        features = datasets.Features(predictions=value, references=value)
        return evaluate.MetricInfo(description=DESCRIPTION, citation="", inputs_description=INPUTS, features=features)

    def _compute(self, predictions: list[Any], references: list[Any]) -> dict[str, float]:
        from sklearn.metrics import accuracy_score

        if len(references) == 0:
            return {"accuracy": math.nan}
        return {"accuracy": float(accuracy_score(np.asarray(references), np.asarray(predictions)))}
