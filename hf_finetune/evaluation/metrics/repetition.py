"""Repetition within answers."""

from __future__ import annotations

import math

import datasets
import evaluate

from .text_words import split_visible_words

DESCRIPTION = """
Share of the runs of four words that came before in the same text; mean over the texts that have four words. Punctuation
marks count as words, and so do characters of scripts without spaces.
"""
INPUTS = """
Args:
    predictions: for each row, the text of the answer.
Returns:
    repetition: from 0 to 1 (the same words over and over), NaN where no text has four words.
"""
WORDS = 4


class Repetition(evaluate.Metric):  # type: ignore[misc]
    """People's prose has a few percent at most; a model that is stuck has nearly 1."""

    def _info(self) -> evaluate.MetricInfo:
        features = datasets.Features(predictions=datasets.Value("string"))
        return evaluate.MetricInfo(description=DESCRIPTION, citation="", inputs_description=INPUTS, features=features)

    def _compute(self, predictions: list[str]) -> dict[str, float]:
        shares = [share for share in map(repeated_share, predictions) if not math.isnan(share)]
        return {"repetition": math.fsum(shares) / len(shares) if shares else math.nan}


def repeated_share(text: str) -> float:
    """Of one text; NaN below four words."""
    words = split_visible_words(text)
    runs = [tuple(words[start : start + WORDS]) for start in range(len(words) - WORDS + 1)]
    return (len(runs) - len(set(runs))) / len(runs) if runs else math.nan
