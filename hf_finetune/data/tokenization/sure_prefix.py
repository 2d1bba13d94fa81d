"""The beginning of a long text whose tokens are the first tokens of the whole text, where that is sure.

Of a text of megabytes that is cut at 128 tokens nothing behind the first kilobytes needs to be tokenized: it takes
seconds, and 400 bytes a character. What lies on both sides of a blank between two letters of ASCII is tokenized apart
by tokenizers that split there whatever else is in the text, as ByteLevel and BERT's do, and normalize character by
character; of other tokenizers, and where there is no such blank, the text is taken whole.
"""

from __future__ import annotations

import json
import re
from typing import Any

from transformers import PreTrainedTokenizerFast

LONG = 50_000
"""Characters, below which a text costs nothing."""
PER_TOKEN = 32
"""Characters that are taken for each token of the limit; published tokenizers have four of English in one."""
LAST_PLACES = 4_096
"""Characters at the end of the beginning, among which a blank is looked for."""

_BLANK = re.compile(r"(?<=[A-Za-z0-9]) (?=[A-Za-z0-9])", re.ASCII)
_SPLITTING = {"BertPreTokenizer", "Whitespace", "WhitespaceSplit"}
_SPLITTING_MORE = {"Digits", "Punctuation"}
_BY_CHARACTER = {"NFC", "NFD", "NFKC", "NFKD", "Lowercase", "StripAccents", "BertNormalizer"}


def splits_at_blanks(tokenizer: PreTrainedTokenizerFast) -> bool:
    """Whether the tokens before a blank between two letters do not depend on what is behind it."""
    spec: dict[str, Any] = json.loads(tokenizer.backend_tokenizer.to_str())
    steps = _list_steps(spec["pre_tokenizer"], "pretokenizers")
    splitting = [each["type"] in _SPLITTING or (each["type"] == "ByteLevel" and each["use_regex"]) for each in steps]
    harmless = all(each["type"] in {"ByteLevel", *_SPLITTING, *_SPLITTING_MORE} for each in steps)
    normalizers = {each["type"] for each in _list_steps(spec["normalizer"], "normalizers")}
    # An added token with a blank in it is found before the text is split.
    blank = any(any(map(str.isspace, token["content"])) for token in spec["added_tokens"])
    return any(splitting) and harmless and normalizers <= _BY_CHARACTER and not blank


def find_sure_prefix(text: str, max_length: int) -> str | None:
    """The beginning of a long text, up to such a blank; None for a short text, and for one without."""
    size = max(LONG, PER_TOKEN * max_length)
    if len(text) <= size:
        return None
    blanks = [blank.start() for blank in _BLANK.finditer(text, size - LAST_PLACES, size)]
    return text[: blanks[-1]] if blanks else None


def _list_steps(step: Any, inside: str) -> list[dict[str, Any]]:
    steps: list[dict[str, Any]] = []
    rest = [step]
    while rest:
        each = rest.pop()
        if each is None:
            continue
        if each["type"] == "Sequence":
            rest += each[inside]
        else:
            steps.append(each)
    return steps
