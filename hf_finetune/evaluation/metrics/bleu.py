"""BLEU of all rows together (Papineni et al., 2002), as sacrebleu computes it by default (Post, 2018).

Runs of one to four words that answers and references share, and a penalty for answers that are shorter. Chinese or
Japanese text is not split into words: chrF reads it better. It is of the rows together, not a mean over
them, and 0 where no answer has four words.

Returns:
    bleu: from 0 to 100, NaN without rows.
    bleu_signature: version and settings of sacrebleu; scores compare where these are the same.
"""

from __future__ import annotations

from typing import Any

from .answer_functions import compute_corpus_bleu
from .base import ComparedAnswerMetric


class Bleu(ComparedAnswerMetric):
    def _compute(self, predictions: list[str], references: list[str]) -> dict[str, Any]:
        score, signature = compute_corpus_bleu(predictions, references)
        return {"bleu": score, "bleu_signature": signature}
