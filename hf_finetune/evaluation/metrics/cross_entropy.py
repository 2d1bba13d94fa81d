"""Mean negative log-likelihood of the predicted tokens, in nats; every token counts the same.

Returns:
    cross_entropy: NaN where a sum is NaN or no token was predicted.
"""

from __future__ import annotations

import math
from typing import ClassVar

from .base import NLL_SUMS, TOKENS, DescribedMetric
from .language_functions import compute_cross_entropy


class CrossEntropy(DescribedMetric):
    inputs: ClassVar = {"nll_sums": NLL_SUMS, "tokens": TOKENS}

    def _compute(self, nll_sums: list[float], tokens: list[int]) -> dict[str, float]:
        return {"cross_entropy": float(compute_cross_entropy(math.fsum(nll_sums), sum(tokens)))}
