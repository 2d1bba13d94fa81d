"""ROUGE of answers."""

from __future__ import annotations

import math
from collections.abc import Sequence

import datasets
import evaluate

from .text_words import split_words

DESCRIPTION = """
Mean over rows of the F-measures of ROUGE (Lin, 2004), as rouge-score computes them without a stemmer: shared words,
shared pairs of words, and the longest common run of words in order. Letters of all scripts count; rouge-score's own
tokenizer drops all but a to z and digits.
"""
INPUTS = """
Args:
    predictions: for each row, the text of the answer.
    references: for each row, the text that it should be.
Returns:
    rouge1, rouge2, rougeL: from 0 to 1, NaN without rows.
"""
FIGURES = ("rouge1", "rouge2", "rougeL")


class Rouge(evaluate.Metric):  # type: ignore[misc]
    """Meant for summaries of some sentences."""

    def _info(self) -> evaluate.MetricInfo:
        features = datasets.Features(predictions=datasets.Value("string"), references=datasets.Value("string"))
        return evaluate.MetricInfo(description=DESCRIPTION, citation="", inputs_description=INPUTS, features=features)

    def _compute(self, predictions: list[str], references: list[str]) -> dict[str, float]:
        rows = rouge_of_rows(predictions, references)
        return {
            name: math.fsum(row[place] for row in rows) / len(rows) if rows else math.nan
            for place, name in enumerate(FIGURES)
        }


class Words:
    """What rouge-score takes for a tokenizer."""

    def tokenize(self, text: str) -> list[str]:
        return split_words(text)


def rouge_of_rows(predictions: Sequence[str], references: Sequence[str]) -> list[list[float]]:
    """For each row the F-measures that `FIGURES` names."""
    from rouge_score.rouge_scorer import RougeScorer

    scorer = RougeScorer(list(FIGURES), tokenizer=Words())
    pairs = zip(references, predictions, strict=True)
    found = [scorer.score(*pair) for pair in pairs]
    return [[float(scores[name].fmeasure) for name in FIGURES] for scores in found]
