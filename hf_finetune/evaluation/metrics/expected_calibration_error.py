"""Expected calibration error of a classifier's probabilities."""

from __future__ import annotations

import math
from typing import Any

import datasets
import evaluate
import numpy as np

DESCRIPTION = "How far, on average over the rows, probability and share of what is true are apart."
INPUTS = """
Args:
    prediction_scores: for each row, the probability of each label.
    references: for each row, the number of its label; with config "multilabel" 0 or 1 for each label.
    bins: how many, of equal width, the probabilities are sorted into.
Returns:
    expected_calibration_error: from 0 to 1, NaN without rows. One label a row: of its largest probability; several
        labels: of the probability of each.
"""


class ExpectedCalibrationError(evaluate.Metric):  # type: ignore[misc]
    """Guo et al. (2017), https://arxiv.org/abs/1706.04599: 15 bins, open below and closed above."""

    def _info(self) -> evaluate.MetricInfo:
        number = datasets.Value("int64")
        value = datasets.Sequence(number) if self.config_name == "multilabel" else number
        features = datasets.Features(prediction_scores=datasets.Sequence(datasets.Value("float64")), references=value)
        return evaluate.MetricInfo(description=DESCRIPTION, citation="", inputs_description=INPUTS, features=features)

    def _compute(self, prediction_scores: list[list[float]], references: list[Any], bins: int = 15) -> dict[str, float]:
        if len(references) == 0:
            return {"expected_calibration_error": math.nan}
        scores, given = np.asarray(prediction_scores), np.asarray(references)
        if self.config_name == "multilabel":
            confidence, correct = scores.ravel(), given.ravel()
        else:
            confidence, correct = scores.max(axis=1), scores.argmax(axis=1) == given
        numbers = np.clip(np.ceil(confidence * bins) - 1, 0, bins - 1).astype(np.int64)
        gaps = np.bincount(numbers, weights=confidence - correct, minlength=bins)
        return {"expected_calibration_error": float(np.abs(gaps).sum() / len(confidence))}
