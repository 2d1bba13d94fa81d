"""Exponential of the mean negative log-likelihood of the predicted tokens; every token counts the same.

Comparable only between models with the same tokenizer; `BitsPerByte` compares across tokenizers.

Returns:
    perplexity: NaN where a sum is NaN or no token was predicted, infinite beyond the largest float.
"""

from __future__ import annotations

import math
from typing import ClassVar

from .base import NLL_SUMS, TOKENS, DescribedMetric
from .language_functions import compute_perplexity


class Perplexity(DescribedMetric):
    inputs: ClassVar = {"nll_sums": NLL_SUMS, "tokens": TOKENS}

    def _compute(self, nll_sums: list[float], tokens: list[int]) -> dict[str, float]:
        return {"perplexity": float(compute_perplexity(math.fsum(nll_sums), sum(tokens)))}
