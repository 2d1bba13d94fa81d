"""Exponential of the negative log-likelihood of a text, divided by its words; white space separates words.

Comparable between models with different tokenizers, for languages that put spaces between words.

Returns:
    word_perplexity: NaN where a sum is NaN or there are no words, infinite beyond the largest float.
"""

from __future__ import annotations

import math
from typing import ClassVar

from .base import INTEGER, NLL_SUMS, DescribedMetric
from .language_functions import compute_perplexity


class WordPerplexity(DescribedMetric):
    inputs: ClassVar = {"nll_sums": NLL_SUMS, "words": (INTEGER, "for each row, the number of words of its text.")}

    def _compute(self, nll_sums: list[float], words: list[int]) -> dict[str, float]:
        return {"word_perplexity": float(compute_perplexity(math.fsum(nll_sums), sum(words)))}
