"""Mean over rows of the F-measures of ROUGE (Lin, 2004), as rouge-score computes them without a stemmer.

Shared words, shared pairs of words, and the longest common run of words in order. Letters of all scripts count;
rouge-score's own tokenizer drops all but a to z and digits. Meant for summaries of some sentences.

Returns:
    rouge1, rouge2, rougeL: from 0 to 1, NaN without rows.
"""

from __future__ import annotations

from .answer_functions import average_rows, compute_rouge
from .base import ComparedAnswerMetric


class Rouge(ComparedAnswerMetric):
    def _compute(self, predictions: list[str], references: list[str]) -> dict[str, float]:
        return {name: average_rows(rows) for name, rows in compute_rouge(predictions, references).items()}
