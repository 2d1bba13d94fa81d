"""Bits per byte of a language model: what it costs to write the text with it, whatever its tokenizer."""

from __future__ import annotations

import math

import datasets
import evaluate

DESCRIPTION = "Negative log-likelihood of a text in bits, divided by its length in UTF-8 bytes."
INPUTS = """
Args:
    nll_sums: for each row, the sum of the negative log-likelihoods of its predicted tokens, in nats.
    total_bytes: the UTF-8 bytes of the text of all rows together.
Returns:
    bits_per_byte: NaN where a sum is NaN or there are no bytes.
"""


class BitsPerByte(evaluate.Metric):  # type: ignore[misc]
    """Comparable between models with different tokenizers."""

    def _info(self) -> evaluate.MetricInfo:
        features = datasets.Features(nll_sums=datasets.Value("float64"))
        return evaluate.MetricInfo(description=DESCRIPTION, citation="", inputs_description=INPUTS, features=features)

    def _compute(self, nll_sums: list[float], total_bytes: int) -> dict[str, float]:
        bits = math.fsum(nll_sums) / math.log(2)
        return {"bits_per_byte": bits / total_bytes if total_bytes else math.nan}
