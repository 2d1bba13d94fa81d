"""Settings of a tokenizer.json by which a short text takes much memory or time, or a long word much time."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

from hf_finetune.config.model_files.values import CORRECT, iterate_leaves
from hf_finetune.config.reading.document import format_key_path, format_value
from hf_finetune.errors import Problem

# Published normalizers put "▁" for a blank, or "..." for an ellipsis.
MOST_GROWTH = 1_000
# WordPiece tries every end of a word from every place: in time that is its square. Published models have 100.
LONGEST_WORD = 1_000
# Of BOS and EOS, [CLS] and [SEP]; those that set a language or a task stand there as well.
MOST_AROUND = 1_000
WORD_KEY = "max_input_chars_per_word"


def find_growing_texts(sections: Mapping[str, Any], place: str) -> Iterator[Problem]:
    """Yield the replacement by which, with those before it, a text becomes a thousand times as long or longer."""
    growth = 1
    for keys, value in iterate_leaves(sections):
        if keys[-1] not in ("content", "prepend") or not isinstance(value, str):
            continue
        growth *= max(1, len(value))
        if growth > MOST_GROWTH:
            what = f"{len(value):,} characters for each that is replaced make a text {growth:,} times as long"
            key = format_key_path(tuple(int(part) if part.isdigit() else part for part in keys))
            yield Problem(what, CORRECT, place, key=key, code="HF552")
            return


def find_long_words(model: Mapping[str, Any], place: str) -> Iterator[Problem]:
    """Yield a bound of a word's length that bounds nothing; `model` is that part of a tokenizer.json."""
    longest = model.get(WORD_KEY)
    if isinstance(longest, int | float) and longest > LONGEST_WORD:
        what = f"words of {format_value(longest)} characters would be tried whole, in time that is their square"
        yield Problem(what, CORRECT, place, key=f"model.{WORD_KEY}", code="HF552")


def find_long_frames(processor: Any, place: str) -> Iterator[Problem]:
    """Yield a problem for a post-processor that puts more special tokens around each text than any has."""
    rest, count = [processor], 0
    while rest:
        each = rest.pop()
        if not isinstance(each, dict):
            continue
        inside, tokens = each.get("processors"), each.get("special_tokens")
        rest += inside if isinstance(inside, list) else []
        for template in (each.get("single"), each.get("pair")):
            count += _count_tokens(template, tokens if isinstance(tokens, dict) else {})
    if count > MOST_AROUND:
        yield Problem(f"puts {count:,} special tokens around texts", CORRECT, place, key="post_processor", code="HF552")


def _count_tokens(template: Any, tokens: Mapping[str, Any]) -> int:
    # [{"SpecialToken": {"id": "[CLS]", "type_id": 0}}, {"Sequence": ...}], and {"[CLS]": {"ids": [101], ...}}
    count = 0
    for piece in template if isinstance(template, list) else []:
        special = piece.get("SpecialToken") if isinstance(piece, dict) else None
        token = tokens.get(str(special.get("id"))) if isinstance(special, dict) else None
        ids = token.get("ids") if isinstance(token, dict) else None
        count += len(ids) if isinstance(ids, list) else 1
    return count
