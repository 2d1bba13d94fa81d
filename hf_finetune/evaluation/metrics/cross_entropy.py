"""Cross-entropy of a language model: mean negative log-likelihood of a token, in nats."""

from __future__ import annotations

import math

import datasets
import evaluate

DESCRIPTION = "Mean negative log-likelihood of the predicted tokens, in nats; every token counts the same."
INPUTS = """
Args:
    nll_sums: for each row, the sum of the negative log-likelihoods of its predicted tokens, in nats.
    tokens: for each row, the number of its predicted tokens.
Returns:
    cross_entropy: NaN where a sum is NaN or no token was predicted.
"""


class CrossEntropy(evaluate.Metric):  # type: ignore[misc]
    """Token-weighted mean over rows."""

    def _info(self) -> evaluate.MetricInfo:
        features = datasets.Features(nll_sums=datasets.Value("float64"), tokens=datasets.Value("int64"))
        return evaluate.MetricInfo(description=DESCRIPTION, citation="", inputs_description=INPUTS, features=features)

    def _compute(self, nll_sums: list[float], tokens: list[int]) -> dict[str, float]:
        total = sum(tokens)
        return {"cross_entropy": math.fsum(nll_sums) / total if total else math.nan}
