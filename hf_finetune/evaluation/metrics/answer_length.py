"""Mean number of tokens of an answer, the one that ends it included.

Neither long nor short is better; far from the references' it is a finding.

Returns:
    answer_tokens: NaN without rows.
"""

from __future__ import annotations

from typing import ClassVar

from .answer_functions import average_rows
from .base import INTEGER, DescribedMetric


class AnswerLength(DescribedMetric):
    inputs: ClassVar = {"tokens": (INTEGER, "for each row, the number of tokens that were generated.")}

    def _compute(self, tokens: list[int]) -> dict[str, float]:
        return {"answer_tokens": average_rows(tokens)}
