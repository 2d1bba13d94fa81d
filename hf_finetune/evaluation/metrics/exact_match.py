"""Share of the answers that say what the reference says, word for word.

After SQuAD's normalization (Rajpurkar et al., 2016): lower case, no punctuation, no English articles, any white
space. Unicode's punctuation counts, too, and characters of scripts without spaces are compared one by one. Hard on
long answers; `TokenF1` counts the words that they share.

Returns:
    exact_match: from 0 to 1, NaN without rows.
"""

from __future__ import annotations

from .answer_functions import average_rows, match_answer
from .base import ComparedAnswerMetric


class ExactMatch(ComparedAnswerMetric):
    def _compute(self, predictions: list[str], references: list[str]) -> dict[str, float]:
        return {"exact_match": average_rows(map(match_answer, predictions, references))}
