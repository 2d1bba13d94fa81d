"""chrF of answers."""

from __future__ import annotations

import math
from typing import Any

import datasets
import evaluate

DESCRIPTION = """
chrF2 of all rows together (Popović, 2015), as sacrebleu computes it by default: runs of one to six characters that
answers and references share, recall counting twice as much as precision. Any script, no words needed.
"""
INPUTS = """
Args:
    predictions: for each row, the text of the answer.
    references: for each row, the text that it should be.
Returns:
    chrf: from 0 to 100, NaN without rows.
    chrf_signature: version and settings of sacrebleu; figures compare where these are the same.
"""


class Chrf(evaluate.Metric):  # type: ignore[misc]
    """A figure of the rows together, not a mean over them."""

    def _info(self) -> evaluate.MetricInfo:
        features = datasets.Features(predictions=datasets.Value("string"), references=datasets.Value("string"))
        return evaluate.MetricInfo(description=DESCRIPTION, citation="", inputs_description=INPUTS, features=features)

    def _compute(self, predictions: list[str], references: list[str]) -> dict[str, Any]:
        from sacrebleu.metrics.chrf import CHRF

        if not predictions:
            return {"chrf": math.nan, "chrf_signature": None}
        chrf = CHRF()
        score = chrf.corpus_score(list(predictions), [list(references)]).score
        return {"chrf": float(score), "chrf_signature": str(chrf.get_signature())}
