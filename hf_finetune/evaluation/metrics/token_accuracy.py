"""Share of the predicted tokens whose most likely prediction is the right one; every token counts the same.

Returns:
    token_accuracy: from 0 to 1, NaN where no token was predicted.
"""

from __future__ import annotations

from typing import ClassVar

from .base import INTEGER, TOKENS, DescribedMetric
from .language_functions import compute_token_accuracy


class TokenAccuracy(DescribedMetric):
    inputs: ClassVar = {
        "correct": (INTEGER, "for each row, the number of its correctly predicted tokens."),
        "tokens": TOKENS,
    }

    def _compute(self, correct: list[int], tokens: list[int]) -> dict[str, float]:
        return {"token_accuracy": float(compute_token_accuracy(sum(correct), sum(tokens)))}
