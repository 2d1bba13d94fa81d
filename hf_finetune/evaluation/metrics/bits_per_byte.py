"""Negative log-likelihood of a text in bits, divided by its length in UTF-8 bytes.

Comparable between models with different tokenizers.

Args:
    total_bytes: the UTF-8 bytes of the text of all rows together.
Returns:
    bits_per_byte: NaN where a sum is NaN or there are no bytes.
"""

from __future__ import annotations

import math
from typing import ClassVar

from .base import NLL_SUMS, DescribedMetric
from .language_functions import compute_bits_per_byte


class BitsPerByte(DescribedMetric):
    inputs: ClassVar = {"nll_sums": NLL_SUMS}

    def _compute(self, nll_sums: list[float], total_bytes: int) -> dict[str, float]:
        return {"bits_per_byte": float(compute_bits_per_byte(math.fsum(nll_sums), total_bytes))}
