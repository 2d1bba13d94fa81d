"""Share of the runs of four words that came before in the same text; mean over the texts that have four words.

Punctuation marks count as words, and so do characters of scripts without spaces.
People's prose has a few percent at most; a model that is stuck has nearly 1.

Returns:
    repetition: from 0 to 1 (the same words over and over), NaN where no text has four words.
"""

from __future__ import annotations

from .answer_functions import average_rows, compute_repetition
from .base import AnswerMetric


class Repetition(AnswerMetric):
    def _compute(self, predictions: list[str]) -> dict[str, float]:
        return {"repetition": average_rows(map(compute_repetition, predictions))}
