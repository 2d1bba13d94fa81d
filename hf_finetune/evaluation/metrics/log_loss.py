"""Log-loss of a classifier's probabilities."""

from __future__ import annotations

import math
from typing import Any

import datasets
import evaluate
import numpy as np

DESCRIPTION = "Mean negative logarithm of the probability that was given to what is true, in nats."
INPUTS = """
Args:
    prediction_scores: for each row, the probability of each label.
    references: for each row, the number of its label; with config "multilabel" 0 or 1 for each label.
Returns:
    log_loss: from 0 upwards, NaN without rows. Several labels: the mean over rows and labels.
"""


class LogLoss(evaluate.Metric):  # type: ignore[misc]
    """A probability of 0 counts as the least one that a float can tell from 0, as in scikit-learn."""

    def _info(self) -> evaluate.MetricInfo:
        number = datasets.Value("int64")
        value = datasets.Sequence(number) if self.config_name == "multilabel" else number
        features = datasets.Features(prediction_scores=datasets.Sequence(datasets.Value("float64")), references=value)
        return evaluate.MetricInfo(description=DESCRIPTION, citation="", inputs_description=INPUTS, features=features)

    def _compute(self, prediction_scores: list[list[float]], references: list[Any]) -> dict[str, float]:
        from sklearn.metrics import log_loss

        if len(references) == 0:
            return {"log_loss": math.nan}
        scores, given = np.asarray(prediction_scores), np.asarray(references)
        if self.config_name == "multilabel":
            return {"log_loss": float(log_loss(given.ravel(), scores.ravel(), labels=[0, 1]))}
        return {"log_loss": float(log_loss(given, scores, labels=np.arange(scores.shape[1])))}
