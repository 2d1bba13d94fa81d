"""Exact match of answers."""

from __future__ import annotations

import math

import datasets
import evaluate

from .text_words import normalize_answer

DESCRIPTION = """
Share of the answers that say what the reference says, word for word, after SQuAD's normalisation (Rajpurkar et al.,
2016): lower case, no punctuation, no English articles, any white space. Unicode's punctuation counts, too, and
characters of scripts without spaces are compared one by one.
"""
INPUTS = """
Args:
    predictions: for each row, the text of the answer.
    references: for each row, the text that it should be.
Returns:
    exact_match: from 0 to 1, NaN without rows.
"""


class ExactMatch(evaluate.Metric):  # type: ignore[misc]
    """Hard on long answers; `TokenF1` counts the words that they share."""

    def _info(self) -> evaluate.MetricInfo:
        features = datasets.Features(predictions=datasets.Value("string"), references=datasets.Value("string"))
        return evaluate.MetricInfo(description=DESCRIPTION, citation="", inputs_description=INPUTS, features=features)

    def _compute(self, predictions: list[str], references: list[str]) -> dict[str, float]:
        pairs = list(zip(predictions, references, strict=True))
        right = sum(normalize_answer(prediction) == normalize_answer(reference) for prediction, reference in pairs)
        return {"exact_match": right / len(pairs) if pairs else math.nan}
