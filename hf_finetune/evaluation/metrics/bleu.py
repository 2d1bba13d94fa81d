"""BLEU of answers."""

from __future__ import annotations

import math
from typing import Any

import datasets
import evaluate

DESCRIPTION = """
BLEU of all rows together (Papineni et al., 2002), as sacrebleu computes it by default (Post, 2018): runs of one to four
words that answers and references share, and a penalty for answers that are shorter. Chinese or Japanese text is not
split into words: chrF reads it better. Where no answer has four words it is 0.
"""
INPUTS = """
Args:
    predictions: for each row, the text of the answer.
    references: for each row, the text that it should be.
Returns:
    bleu: from 0 to 100, NaN without rows.
    bleu_signature: version and settings of sacrebleu; figures compare where these are the same.
"""


class Bleu(evaluate.Metric):  # type: ignore[misc]
    """A figure of the rows together, not a mean over them."""

    def _info(self) -> evaluate.MetricInfo:
        features = datasets.Features(predictions=datasets.Value("string"), references=datasets.Value("string"))
        return evaluate.MetricInfo(description=DESCRIPTION, citation="", inputs_description=INPUTS, features=features)

    def _compute(self, predictions: list[str], references: list[str]) -> dict[str, Any]:
        from sacrebleu.metrics.bleu import BLEU

        if not predictions:
            return {"bleu": math.nan, "bleu_signature": None}
        bleu = BLEU(force=True)  # no advice about answers that end in a space and a full stop
        score = bleu.corpus_score(list(predictions), [list(references)]).score
        return {"bleu": float(score), "bleu_signature": str(bleu.get_signature())}
