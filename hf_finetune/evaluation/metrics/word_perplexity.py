"""Perplexity of a language model, per word."""

from __future__ import annotations

import math

import datasets
import evaluate

DESCRIPTION = "Exponential of the negative log-likelihood of a text, divided by its words; white space separates words."
INPUTS = """
Args:
    nll_sums: for each row, the sum of the negative log-likelihoods of its predicted tokens, in nats.
    words: for each row, the number of words of its text.
Returns:
    word_perplexity: NaN where a sum is NaN or there are no words, infinite beyond the largest float.
"""


class WordPerplexity(evaluate.Metric):  # type: ignore[misc]
    """Comparable between models with different tokenizers, for languages that put spaces between words."""

    def _info(self) -> evaluate.MetricInfo:
        features = datasets.Features(nll_sums=datasets.Value("float64"), words=datasets.Value("int64"))
        return evaluate.MetricInfo(description=DESCRIPTION, citation="", inputs_description=INPUTS, features=features)

    def _compute(self, nll_sums: list[float], words: list[int]) -> dict[str, float]:
        total = sum(words)
        mean = math.fsum(nll_sums) / total if total else math.nan
        try:
            return {"word_perplexity": math.exp(mean)}
        except OverflowError:
            return {"word_perplexity": math.inf}
