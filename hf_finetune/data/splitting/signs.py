"""Scripts that set no blanks between words: their signs stand in for words where texts are compared."""

from __future__ import annotations

from typing import Any

import numpy as np
import numpy.typing as npt
import pyarrow.compute as pc

from hf_finetune.data.splitting.assignment import Hashes, Rows

# Thai, Lao and Tibetan; the scripts of Myanmar and Cambodia; Japanese and Chinese. Korean has blanks.
SIGNS = (
    "\u0e00-\u0fff\u1000-\u109f\u1780-\u17ff\u3005-\u3007\u3040-\u30ff\u3400-\u9fff\uff66-\uff9d\U00020000-\U0003ffff"
)
_MARKS = "\u3000-\u3004\u3008-\u303f\uff01-\uff0f\uff1a-\uff20\uff3b-\uff40\uff5b-\uff65"
TOGETHER = 3
"""Signs that are a word: two letters of a word, and so many signs, are in about as many texts."""
_BASE = np.uint64(0x9E3779B97F4A7C25)


def space_signs(texts: Any) -> Any:
    """Set blanks around each sign of texts (texts,), and leave the marks between sentences out."""
    # Text of ASCII alone, which is most of it, has a byte for each character: there is nothing to look for.
    if pc.sum(pc.binary_length(texts)).as_py() == pc.sum(pc.utf8_length(texts)).as_py():
        return texts
    return pc.replace_substring_regex(pc.replace_substring_regex(texts, f"[{_MARKS}]", " "), f"([{SIGNS}])", r" \1 ")


def find_signs(words: Any) -> npt.NDArray[np.bool_]:
    """Whether each word (words,) is a sign."""
    found = pc.match_substring_regex(words, f"^[{SIGNS}]$")
    return np.asarray(found.to_numpy(zero_copy_only=False), np.bool_)


def join_signs(words: Hashes, is_sign: npt.NDArray[np.bool_], row_of: Rows) -> Hashes:
    """Hash each sign with those behind it, `TOGETHER` in all; `words`, `is_sign`, `row_of`: (words,)."""
    # Of the signs a b c d and the word w behind them the words are abc, bcd, c, d and w.
    count = len(words) - TOGETHER + 1
    if count < 1 or not is_sign.any():
        return words
    last = TOGETHER - 1
    whole = is_sign[:count] & is_sign[last:] & (row_of[:count] == row_of[last:])
    for offset in range(1, last):
        whole &= is_sign[offset : offset + count]
    runs = np.zeros(count, np.uint64)
    for offset in range(TOGETHER):
        runs = runs * _BASE + words[offset : offset + count]
    joined = words.copy()
    joined[:count][whole] = runs[whole]
    return joined
