"""The words of a text in any script, as the metric modules beside this file compare them; no metric itself.

Texts are brought to Unicode's NFKC form and lower case first. A character of a script that is written without spaces
(Chinese, Japanese, Thai, Lao, Khmer, Burmese) is a word of its own.
"""

from __future__ import annotations

import string
import unicodedata
from functools import cache

ARTICLES = {"a", "an", "the"}
# As Unicode's names of their characters begin.
WITHOUT_SPACES = ("CJK ", "IDEOGRAPHIC ", "HIRAGANA ", "KATAKANA", "THAI ", "LAO ", "KHMER ", "MYANMAR ")


def split_words(text: str) -> list[str]:
    """Runs of letters, their marks and digits; all else separates words.

    Of ASCII text these are the words of rouge-score's own tokenizer, which drops every other letter.
    """
    return "".join(map(_spoken, _normalised(text))).split()


def normalize_answer(text: str) -> list[str]:
    """What SQuAD's normalisation leaves of an answer: words without punctuation and English articles.

    Unicode's punctuation counts as ASCII's does. Where nothing would be left of a text (`A`, `+`) its words stay as
    they are, or all such answers would be the same. As in SQuAD, `1.5` and `15` are.
    """
    words = "".join(map(_without_punctuation, _normalised(text))).split()
    return [word for word in words if word not in ARTICLES] or _normalised(text).split()


def split_visible_words(text: str) -> list[str]:
    """Runs of letters, their marks and digits, and every other visible character by itself."""
    return "".join(map(_apart, _normalised(text))).split()


def _normalised(text: str) -> str:
    return unicodedata.normalize("NFKC", text).lower()


@cache
def _spoken(character: str) -> str:
    if not _is_letter(character):
        return " "
    return f" {character} " if _stands_alone(character) else character


@cache
def _without_punctuation(character: str) -> str:
    if character in string.punctuation or unicodedata.category(character)[0] == "P":
        return ""
    return f" {character} " if _stands_alone(character) else character


@cache
def _apart(character: str) -> str:
    return character if _is_letter(character) and not _stands_alone(character) else f" {character} "


def _is_letter(character: str) -> bool:
    # Marks are the vowels of Indic scripts; `\w` of a regular expression leaves them out.
    return unicodedata.category(character)[0] in "LMN"


def _stands_alone(character: str) -> bool:
    return unicodedata.name(character, "").startswith(WITHOUT_SPACES)
