"""How far probability and share of what is true are apart, on average over the rows.

Guo et al. (2017), https://arxiv.org/abs/1706.04599: 15 bins, open below and closed above.

Args:
    bins: how many, of equal width, the probabilities are sorted into.
Returns:
    expected_calibration_error: from 0 to 1, NaN without rows. One label a row: of its largest probability; several
        labels: of the probability of each.
"""

from __future__ import annotations

from typing import Any

from .base import ScoreMetric
from .probability_functions import CALIBRATION_BINS, compute_calibration_error


class ExpectedCalibrationError(ScoreMetric):
    def _compute(
        self, prediction_scores: list[list[float]], references: list[Any], bins: int = CALIBRATION_BINS
    ) -> dict[str, float]:
        return {"expected_calibration_error": compute_calibration_error(prediction_scores, references, bins)}
