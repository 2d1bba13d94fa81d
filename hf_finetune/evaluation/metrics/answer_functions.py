"""The formulas of the metrics of generated answers, and what they take for words in any script.

Texts are brought to Unicode's NFKC form and lower case first. A character of a script that is written without spaces
(Chinese, Japanese, Thai, Lao, Khmer, Burmese) is a word of its own.
"""

from __future__ import annotations

import math
import re
import string
import unicodedata
from collections import Counter
from collections.abc import Sequence
from functools import cache
from typing import Any

REFUSAL_PHRASES = (
    "as a language model",
    "as a large language model",
    "as an ai",
    "i am not able to",
    "i am sorry, but",
    "i am unable to",
    "i apologise, but",
    "i apologize, but",
    "i can not",
    "i can't",
    "i cannot",
    "i do not feel comfortable",
    "i don't feel comfortable",
    "i must decline",
    "i will not",
    "i won't",
    "i'm not able to",
    "i'm sorry, but",
    "i'm unable to",
    "sorry, i",
    "unfortunately, i",
)
REFUSAL_CHARACTERS = 100
REFUSAL = re.compile(rf"\b({'|'.join(map(re.escape, REFUSAL_PHRASES))})", re.IGNORECASE)
REPETITION_WORDS = 4
ROUGE_METRICS = ("rouge1", "rouge2", "rougeL")

ARTICLES = {"a", "an", "the"}
# As Unicode's names of their characters begin.
WITHOUT_SPACES = ("CJK ", "IDEOGRAPHIC ", "HIRAGANA ", "KATAKANA", "THAI ", "LAO ", "KHMER ", "MYANMAR ")


def split_words(text: str) -> list[str]:
    """Split a text into runs of letters, their marks and digits; all else separates words.

    Of ASCII text these are the words of rouge-score's own tokenizer, which drops every other letter.
    """
    return "".join(map(_separate_words, _normalize(text))).split()


def normalize_answer(text: str) -> list[str]:
    """Split an answer into words without punctuation and English articles, after SQuAD's normalization.

    Unicode's punctuation counts as ASCII's does. Where nothing would be left of a text (`A`, `+`) its words stay as
    they are, or all such answers would be the same. As in SQuAD, `1.5` and `15` are.
    """
    words = "".join(map(_drop_punctuation, _normalize(text))).split()
    return [word for word in words if word not in ARTICLES] or _normalize(text).split()


def split_visible_words(text: str) -> list[str]:
    """Split a text into runs of letters, their marks and digits, and every other visible character by itself."""
    return "".join(map(_separate_visible, _normalize(text))).split()


def average_rows(values: Any) -> float:
    """Compute the mean, (rows,) -> scalar, of the rows that are not NaN; NaN without any.

    The sum is exact, so that the order of the rows changes no bit.
    """
    defined = [float(value) for value in values if not math.isnan(value)]
    return math.fsum(defined) / len(defined) if defined else math.nan


def match_answer(prediction: str, reference: str) -> bool:
    """Whether both have the same words after `normalize_answer`."""
    return normalize_answer(prediction) == normalize_answer(reference)


def compute_token_f1(prediction: str, reference: str) -> float:
    """Compute the F1 of the words that the two share, in any order; 1 where both are blank."""
    # "a cat sat" and "the cat": [cat, sat] and [cat], 2 * 1 / (2 + 1).
    words, expected = normalize_answer(prediction), normalize_answer(reference)
    if not words or not expected:
        return float(words == expected)
    return 2 * (Counter(words) & Counter(expected)).total() / (len(words) + len(expected))


def compute_repetition(text: str) -> float:
    """Compute the share of runs of four words that came before in the text; NaN below four words."""
    words = split_visible_words(text)
    runs = [tuple(words[start : start + REPETITION_WORDS]) for start in range(len(words) - REPETITION_WORDS + 1)]
    return (len(runs) - len(set(runs))) / len(runs) if runs else math.nan


def is_refusal(text: str) -> bool:
    """Whether one of `REFUSAL_PHRASES` is in the first 100 characters."""
    return REFUSAL.search(text[:REFUSAL_CHARACTERS].replace("’", "'")) is not None


class _Words:
    """A tokenizer for rouge-score, whose own drops all letters but a to z."""

    def tokenize(self, text: str) -> list[str]:
        return split_words(text)


def compute_rouge(predictions: Sequence[str], references: Sequence[str]) -> dict[str, list[float]]:
    """Compute the F-measures of `ROUGE_METRICS` of each row: (rows,) each."""
    from rouge_score.rouge_scorer import RougeScorer

    scorer = RougeScorer(list(ROUGE_METRICS), tokenizer=_Words())
    rows = [scorer.score(*pair) for pair in zip(references, predictions, strict=True)]
    return {name: [float(scores[name].fmeasure) for scores in rows] for name in ROUGE_METRICS}


def compute_corpus_bleu(predictions: Sequence[str], references: Sequence[str]) -> tuple[float, str | None]:
    """Compute sacrebleu's BLEU of all rows together, and its signature; NaN and None without rows."""
    from sacrebleu.metrics.bleu import BLEU

    # `force`: no advice about answers that end in a space and a full stop
    return _score_corpus(BLEU(force=True), predictions, references)


def compute_corpus_chrf(predictions: Sequence[str], references: Sequence[str]) -> tuple[float, str | None]:
    """Compute sacrebleu's chrF2 of all rows together, and its signature; NaN and None without rows."""
    from sacrebleu.metrics.chrf import CHRF

    return _score_corpus(CHRF(), predictions, references)


def _score_corpus(metric: Any, predictions: Sequence[str], references: Sequence[str]) -> tuple[float, str | None]:
    if not len(predictions):
        return math.nan, None
    score = metric.corpus_score(list(predictions), [list(references)]).score
    return float(score), str(metric.get_signature())


def _normalize(text: str) -> str:
    return unicodedata.normalize("NFKC", text).lower()


@cache
def _separate_words(character: str) -> str:
    if not _is_letter(character):
        return " "
    return f" {character} " if _is_word(character) else character


@cache
def _drop_punctuation(character: str) -> str:
    if character in string.punctuation or unicodedata.category(character)[0] == "P":
        return ""
    return f" {character} " if _is_word(character) else character


@cache
def _separate_visible(character: str) -> str:
    return character if _is_letter(character) and not _is_word(character) else f" {character} "


def _is_letter(character: str) -> bool:
    # Marks are the vowels of Indic scripts; `\w` of a regular expression leaves them out.
    return unicodedata.category(character)[0] in "LMN"


def _is_word(character: str) -> bool:
    return unicodedata.name(character, "").startswith(WITHOUT_SPACES)
