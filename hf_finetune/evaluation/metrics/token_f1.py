"""Mean over rows of the harmonic mean of two shares, of the words of answer and reference that the other has.

Words are those that SQuAD's normalization leaves (Rajpurkar et al., 2016): lower case, no punctuation, no English
articles; a character of a script without spaces is a word. The order of the words does not matter.

Returns:
    token_f1: from 0 to 1, NaN without rows.
"""

from __future__ import annotations

from .answer_functions import average_rows, compute_token_f1
from .base import ComparedAnswerMetric


class TokenF1(ComparedAnswerMetric):
    def _compute(self, predictions: list[str], references: list[str]) -> dict[str, float]:
        return {"token_f1": average_rows(map(compute_token_f1, predictions, references))}
