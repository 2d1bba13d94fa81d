"""Perplexity of a language model, per token."""

from __future__ import annotations

import math

import datasets
import evaluate

DESCRIPTION = "Exponential of the mean negative log-likelihood of the predicted tokens; every token counts the same."
INPUTS = """
Args:
    nll_sums: for each row, the sum of the negative log-likelihoods of its predicted tokens, in nats.
    tokens: for each row, the number of its predicted tokens.
Returns:
    perplexity: NaN where a sum is NaN or no token was predicted, infinite beyond the largest float.
"""


class Perplexity(evaluate.Metric):  # type: ignore[misc]
    """Comparable only between models with the same tokenizer; `BitsPerByte` compares across tokenizers."""

    def _info(self) -> evaluate.MetricInfo:
        features = datasets.Features(nll_sums=datasets.Value("float64"), tokens=datasets.Value("int64"))
        return evaluate.MetricInfo(description=DESCRIPTION, citation="", inputs_description=INPUTS, features=features)

    def _compute(self, nll_sums: list[float], tokens: list[int]) -> dict[str, float]:
        total = sum(tokens)
        mean = math.fsum(nll_sums) / total if total else math.nan
        try:
            return {"perplexity": math.exp(mean)}
        except OverflowError:
            return {"perplexity": math.inf}
