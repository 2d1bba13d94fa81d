"""Length of answers."""

from __future__ import annotations

import math

import datasets
import evaluate

DESCRIPTION = "Mean number of tokens of an answer, the one that ends it included."
INPUTS = """
Args:
    tokens: for each row, the number of tokens that were generated.
Returns:
    answer_tokens: NaN without rows.
"""


class AnswerLength(evaluate.Metric):  # type: ignore[misc]
    """Neither long nor short is better; far from the references' it is a finding."""

    def _info(self) -> evaluate.MetricInfo:
        features = datasets.Features(tokens=datasets.Value("int64"))
        return evaluate.MetricInfo(description=DESCRIPTION, citation="", inputs_description=INPUTS, features=features)

    def _compute(self, tokens: list[int]) -> dict[str, float]:
        return {"answer_tokens": sum(tokens) / len(tokens) if len(tokens) else math.nan}
