"""chrF2 of all rows together (Popović, 2015), as sacrebleu computes it by default.

Runs of one to six characters that answers and references share, recall counting twice as much as precision. Any
script, no words needed. It is of the rows together, not a mean over them.

Returns:
    chrf: from 0 to 100, NaN without rows.
    chrf_signature: version and settings of sacrebleu; scores compare where these are the same.
"""

from __future__ import annotations

from typing import Any

from .answer_functions import compute_corpus_chrf
from .base import ComparedAnswerMetric


class Chrf(ComparedAnswerMetric):
    def _compute(self, predictions: list[str], references: list[str]) -> dict[str, Any]:
        score, signature = compute_corpus_chrf(predictions, references)
        return {"chrf": score, "chrf_signature": signature}
