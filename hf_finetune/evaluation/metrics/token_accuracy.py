"""Token accuracy of a language model."""

from __future__ import annotations

import math

import datasets
import evaluate

DESCRIPTION = "Share of the predicted tokens whose most likely prediction is the right one."
INPUTS = """
Args:
    correct: for each row, the number of its tokens that were predicted right.
    tokens: for each row, the number of its predicted tokens.
Returns:
    token_accuracy: from 0 to 1, NaN where no token was predicted.
"""


class TokenAccuracy(evaluate.Metric):  # type: ignore[misc]
    """Token-weighted share over rows."""

    def _info(self) -> evaluate.MetricInfo:
        features = datasets.Features(correct=datasets.Value("int64"), tokens=datasets.Value("int64"))
        return evaluate.MetricInfo(description=DESCRIPTION, citation="", inputs_description=INPUTS, features=features)

    def _compute(self, correct: list[int], tokens: list[int]) -> dict[str, float]:
        total = sum(tokens)
        return {"token_accuracy": sum(correct) / total if total else math.nan}
