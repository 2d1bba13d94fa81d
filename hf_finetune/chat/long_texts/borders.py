"""Where a long text can be cut so that its pieces have the tokens of the whole, where that is sure.

Before a blank between two letters, and behind the end of a line between two, tokenizers split whatever else is in the
text, where they split as ByteLevel's or BERT's do and normalize character by character. Of other tokenizers, and where
there is no such place, a text is taken whole.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

PIECE = 2**18
"""Characters, about: a tokenizer takes some 60 MB for them."""
LONG = 2 * PIECE
"""Characters, above which a text is cut."""

# Of Latin, Greek, Cyrillic, Hebrew, Arabic, Devanagari, Japanese, Chinese and Korean: letters of which every normalizer
# keeps one. Of others one may be left out, or become a blank and a mark.
_LETTERS = (
    "A-Za-z0-9\u0391-\u03a1\u03a3-\u03a9\u03b1-\u03c9\u0410-\u044f\u05d0-\u05ea\u0620-\u063f\u0641-\u064a"
    "\u0904-\u0939\u3041-\u3096\u30a1-\u30fa\u4e00-\u9fff\uac00-\ud7a3"
)
_ENDS = ".,:;!?)\u3002\uff01\uff1f"
BORDER = re.compile(rf"(?<=[{_LETTERS}])(?= [{_LETTERS}])|(?<=[{_LETTERS}{_ENDS}]\n)(?=[{_LETTERS}])")
"""Where a text can be cut."""

_SPLITTING = {"BertPreTokenizer", "Whitespace", "WhitespaceSplit"}
_SPLITTING_MORE = {"Digits", "Punctuation"}
_BY_CHARACTER = {"NFC", "NFD", "NFKC", "NFKD", "Lowercase", "StripAccents", "BertNormalizer"}
# Of cl100k and o200k, as Llama 3, Qwen and GPT-4o have them: none matches across such a place, or looks there, and the
# last one matches every blank that no other does.
_ENDINGS = r"(?i:'s|'t|'re|'ve|'m|'ll|'d)"
_UPPER, _LOWER = r"[\p{Lu}\p{Lt}\p{Lm}\p{Lo}\p{M}]", r"[\p{Ll}\p{Lm}\p{Lo}\p{M}]"
_ALTERNATIVES = (
    _ENDINGS,
    r"[^\r\n\p{L}\p{N}]?\p{L}+",
    rf"[^\r\n\p{{L}}\p{{N}}]?{_UPPER}*{_LOWER}+{_ENDINGS}?",
    rf"[^\r\n\p{{L}}\p{{N}}]?{_UPPER}+{_LOWER}*{_ENDINGS}?",
    r"\p{N}",
    r"\p{N}{1,3}",
    r" ?[^\s\p{L}\p{N}]+[\r\n]*",
    r" ?[^\s\p{L}\p{N}]+[\r\n/]*",
    r"\s*[\r\n]+",
    r"\s+(?!\S)",
    r"\s+",
)


def cut_at_borders(text: str) -> Iterator[tuple[int, int]]:
    """Yield the (start, stop) of the pieces of a text."""
    start = 0
    while (border := BORDER.search(text, start + PIECE)) is not None:
        yield start, border.start()
        start = border.start()
    yield start, len(text)


def splits_at_borders(spec: Mapping[str, Any]) -> bool:
    """Whether the tokens on both sides of a border do not depend on each other, by a tokenizer.json."""
    normalizers = {each["type"] for each in _list_steps(spec["normalizer"], "normalizers")}
    steps = _list_steps(spec["pre_tokenizer"], "pretokenizers")
    reaching = any(map(_may_reach_over, spec["added_tokens"]))
    # BERT's puts blanks around Chinese: where blanks are tokens, two of them are one.
    spaced = "BertNormalizer" in normalizers and not (steps and steps[0]["type"] in _SPLITTING)
    return normalizers <= _BY_CHARACTER and _take_apart(steps) and not (reaching or spaced)


def _take_apart(steps: Sequence[Mapping[str, Any]]) -> bool:
    splitting = [_is_splitting(step) for step in steps]
    others = {step["type"] for step, splits in zip(steps, splitting, strict=True) if not splits}
    # Behind ByteLevel a blank is a letter.
    until = next((number for number, step in enumerate(steps) if step["type"] == "ByteLevel"), len(steps))
    prefixed = any(step.get("add_prefix_space") for step in steps)  # each piece would get one
    return any(splitting[: until + 1]) and others <= {"ByteLevel", *_SPLITTING_MORE} and not prefixed


def _is_splitting(step: Mapping[str, Any]) -> bool:
    if step["type"] == "Split":
        isolates = step["behavior"] == "Isolated" and not step["invert"]
        return isolates and _is_known_pattern(step["pattern"].get("Regex", ""))
    return step["type"] in _SPLITTING or (step["type"] == "ByteLevel" and bool(step["use_regex"]))


def _is_known_pattern(pattern: str) -> bool:
    if not pattern.endswith(rf"|{_ALTERNATIVES[-1]}"):
        return False
    rest = f"{pattern}|"
    while rest:
        first = next((each for each in _ALTERNATIVES if rest.startswith(f"{each}|")), None)
        if first is None:
            return False
        rest = rest[len(first) + 1 :]
    return True


def _may_reach_over(token: Mapping[str, Any]) -> bool:
    """Whether an added token, which is found before a text is split, may take a border with it."""
    content: str = token["content"]
    # One that ends or begins with a letter may be told to take the blanks beside it, too.
    beside = (token["rstrip"] and content[-1:].isalnum()) or (token["lstrip"] and content[:1].isalnum())
    return beside or any(map(str.isspace, content))


def _list_steps(step: Any, inside: str) -> list[dict[str, Any]]:
    """The steps of a normalizer or a pre-tokenizer, in order, however they are nested."""
    steps: list[dict[str, Any]] = []
    rest = [step]
    while rest:
        each = rest.pop(0)
        if each is None:
            continue
        if each["type"] == "Sequence":
            rest = [*each[inside], *rest]
        else:
            steps.append(each)
    return steps
