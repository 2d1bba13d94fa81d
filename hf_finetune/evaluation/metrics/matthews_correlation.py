"""Matthews correlation of a classifier."""

from __future__ import annotations

import math
import warnings
from typing import Any

import datasets
import evaluate
import numpy as np

DESCRIPTION = "Correlation between predicted and given labels: 0 for a guess, whatever the shares of the labels."
INPUTS = """
Args:
    predictions: for each row, the number of its predicted label; with config "multilabel" 0 or 1 for each label.
    references: the labels given, likewise.
Returns:
    matthews_correlation: from -1 to 1, 0 where all rows have, or were predicted, one label; NaN without rows.
        Several labels: the mean over them, each a question of yes and no.
"""


class MatthewsCorrelation(evaluate.Metric):  # type: ignore[misc]
    """Matthews (1975), for more than two labels Gorodkin (2004)."""

    def _info(self) -> evaluate.MetricInfo:
        number = datasets.Value("int64")
        value = datasets.Sequence(number) if self.config_name == "multilabel" else number
        features = datasets.Features(predictions=value, references=value)
        return evaluate.MetricInfo(description=DESCRIPTION, citation="", inputs_description=INPUTS, features=features)

    def _compute(self, predictions: list[Any], references: list[Any]) -> dict[str, float]:
        from sklearn.metrics import matthews_corrcoef

        if len(references) == 0:
            return {"matthews_correlation": math.nan}
        # (questions, rows)
        given, predicted = (np.asarray(each).reshape(len(references), -1).T for each in (references, predictions))
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # of a single label
            each = [matthews_corrcoef(*pair) for pair in zip(given, predicted, strict=True)]
        return {"matthews_correlation": float(np.mean(each))}
