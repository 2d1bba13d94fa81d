"""Mean negative logarithm of the probability of what is true, in nats.

A probability of 0 counts as the least one that a float can tell from 0, as in scikit-learn.

Returns:
    log_loss: from 0 upwards, NaN without rows. Several labels: the mean over rows and labels.
"""

from __future__ import annotations

from typing import Any

from .base import ScoreMetric
from .probability_functions import average_log_loss


class LogLoss(ScoreMetric):
    def _compute(self, prediction_scores: list[list[float]], references: list[Any]) -> dict[str, float]:
        return {"log_loss": average_log_loss(prediction_scores, references)}
