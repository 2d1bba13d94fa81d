"""Token F1 of answers: the words that they share with their references."""

from __future__ import annotations

import math
from collections import Counter

import datasets
import evaluate

from .text_words import normalize_answer

DESCRIPTION = """
Mean over rows of the harmonic mean of two shares: of the words of the answer that are in the reference, and of the
words of the reference that are in the answer. Words are those that SQuAD's normalisation leaves (Rajpurkar et al.,
2016): lower case, no punctuation, no English articles; a character of a script without spaces is a word.
"""
INPUTS = """
Args:
    predictions: for each row, the text of the answer.
    references: for each row, the text that it should be.
Returns:
    token_f1: from 0 to 1, NaN without rows.
"""


class TokenF1(evaluate.Metric):  # type: ignore[misc]
    """The order of the words does not matter."""

    def _info(self) -> evaluate.MetricInfo:
        features = datasets.Features(predictions=datasets.Value("string"), references=datasets.Value("string"))
        return evaluate.MetricInfo(description=DESCRIPTION, citation="", inputs_description=INPUTS, features=features)

    def _compute(self, predictions: list[str], references: list[str]) -> dict[str, float]:
        scores = [shared_words(*pair) for pair in zip(predictions, references, strict=True)]
        return {"token_f1": math.fsum(scores) / len(scores) if scores else math.nan}


def shared_words(prediction: str, reference: str) -> float:
    """F1 of one answer; 1 where both texts are blank."""
    said, given = normalize_answer(prediction), normalize_answer(reference)
    if not said or not given:
        return float(said == given)
    return 2 * (Counter(said) & Counter(given)).total() / (len(said) + len(given))
