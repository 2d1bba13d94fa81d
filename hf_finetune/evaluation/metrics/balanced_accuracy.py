"""Balanced accuracy of a classifier."""

from __future__ import annotations

import math
import warnings
from typing import Any

import datasets
import evaluate
import numpy as np

DESCRIPTION = "Mean of the recalls of the labels: each counts the same, however rare it is."
INPUTS = """
Args:
    predictions: for each row, the number of its predicted label; with config "multilabel" 0 or 1 for each label.
    references: the labels given, likewise.
Returns:
    balanced_accuracy: from 0 to 1, over the labels that have rows; NaN without rows. Several labels: the mean over
        them, each a question of yes and no.
"""


class BalancedAccuracy(evaluate.Metric):  # type: ignore[misc]
    """Half for a guess between two labels, whatever their shares."""

    def _info(self) -> evaluate.MetricInfo:
        number = datasets.Value("int64")
        value = datasets.Sequence(number) if self.config_name == "multilabel" else number
        features = datasets.Features(predictions=value, references=value)
        return evaluate.MetricInfo(description=DESCRIPTION, citation="", inputs_description=INPUTS, features=features)

    def _compute(self, predictions: list[Any], references: list[Any]) -> dict[str, float]:
        from sklearn.metrics import balanced_accuracy_score

        if len(references) == 0:
            return {"balanced_accuracy": math.nan}
        # (questions, rows)
        given, predicted = (np.asarray(each).reshape(len(references), -1).T for each in (references, predictions))
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # of predicted labels that no row has
            each = [balanced_accuracy_score(*pair) for pair in zip(given, predicted, strict=True)]
        return {"balanced_accuracy": float(np.mean(each))}
