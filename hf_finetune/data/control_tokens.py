"""Which token is scaffolding and which is text: control tokens come from a template, never from what a message says.

A rendered conversation is one string, and a tokenizer finds `<|im_end|>` in it whoever wrote it
(https://github.com/huggingface/transformers/issues/29279). Here the text of messages is marked before it is rendered
wherever it spells an added token; what is found unmarked afterwards was written by the template. The ids come from a
twin of the tokenizer in which the added tokens go by names that no text can contain, in one pass over the whole string,
so that text without such spellings gets exactly the ids that the tokenizer itself would give.
"""

from __future__ import annotations

import json
import re
import secrets
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from itertools import accumulate, pairwise
from typing import Any
from weakref import WeakKeyDictionary

from tokenizers import Tokenizer
from transformers import PreTrainedTokenizerFast

# Unicode's noncharacters, in an order that is drawn anew in each process: no text can have been written to contain it.
_NONCHARACTERS = [chr(code) for code in range(0xFDD0, 0xFDF0)]
MARK = "".join(secrets.choice(_NONCHARACTERS) for _ in range(12))


@dataclass(frozen=True, slots=True)
class Tokens:
    """Token ids of one string, and where in that string each begins and ends."""

    ids: list[int]
    offsets: list[tuple[int, int]]
    bounds: list[int]
    """The positions that were asked about, as `offsets` counts them."""


@dataclass(frozen=True)
class ControlTokens:
    """The added tokens of a tokenizer that structure a text, special or not.

    Words and runs of spaces that a vocabulary was extended by are text, and stay it.
    """

    names: Mapping[str, str]
    """Control token -> its name in the twin."""
    twin: Tokenizer
    anywhere: re.Pattern[str]
    """Matches the first character of each control token that text spells."""
    unmarked: re.Pattern[str]
    """Matches a control token that is not marked as text."""
    prefixes: frozenset[str]
    suffixes: frozenset[str]
    longest: int

    def spelled_in(self, value: Any) -> set[str]:
        """The control tokens that the strings inside `value` spell."""
        if not self.names:
            return set()
        texts = list(_strings(value))
        return {token for token in self.names if any(token in text for text in texts)} if self._any(texts) else set()

    def _any(self, texts: Iterable[str]) -> bool:
        return any(self.anywhere.search(text) for text in texts)

    def mark(self, value: Any) -> Any:
        """Mark, in every string inside `value`, what spells a control token or could be completed to one."""
        if isinstance(value, str):
            return self._mark_text(value)
        if isinstance(value, dict):
            # Keys and roles are what the template goes by; what they spell in whole is marked all the same.
            return {self._break(key): self._mark_item(key, item) for key, item in value.items()}
        if isinstance(value, list):
            return [self.mark(item) for item in value]
        return value

    def _mark_item(self, key: str, item: Any) -> Any:
        return self._break(item) if key == "role" else self.mark(item)

    def _break(self, text: str) -> str:
        """Mark the control tokens that `text` spells, and break them, so that the template does not see them either."""
        return self.anywhere.sub(lambda first: f"{MARK}{first[0]}{MARK}", text)

    def _mark_text(self, text: str) -> str:
        if not self.names or not text:
            return text
        for size in range(1, min(self.longest, len(text) + 1)):  # the start of a token that the template would end
            if text[-size:] in self.prefixes:
                text = f"{text[:-size]}{MARK}{text[-size:]}"
                break
        start = len(text) - len(text.lstrip())
        for size in range(1, min(self.longest, len(text) - start + 1)):  # the end of one that the template began
            if text[start : start + size] in self.suffixes:
                text = f"{text[:start]}{MARK}{text[start:]}"
                break
        return self._break(text)

    def encode(self, texts: Sequence[str], bounds: Sequence[Sequence[int]]) -> list[Tokens]:
        """Tokenise rendered texts; only what is not marked becomes a control token.

        `bounds` are sorted positions in each text, none of them inside a control token.
        """
        pieces = [
            [self._named(text[start:stop]) for start, stop in pairwise([0, *inner, len(text)])]
            for text, inner in zip(texts, bounds, strict=True)
        ]
        encoded = self.twin.encode_batch(["".join(parts) for parts in pieces], add_special_tokens=False)
        return [
            Tokens(one.ids, one.offsets, list(accumulate(len(part) for part in parts[:-1])))
            for one, parts in zip(encoded, pieces, strict=True)
        ]

    def _named(self, text: str) -> str:
        return self.unmarked.sub(lambda match: self.names[match[0]], text).replace(MARK, "")


_made: WeakKeyDictionary[PreTrainedTokenizerFast, tuple[int, ControlTokens]] = WeakKeyDictionary()


def control_tokens(tokenizer: PreTrainedTokenizerFast) -> ControlTokens:
    """The control tokens of `tokenizer`; made once, and again where tokens were added since."""
    size, made = _made.get(tokenizer, (-1, None))
    if made is None or size != len(tokenizer):
        made = _control_tokens(tokenizer)
        _made[tokenizer] = len(tokenizer), made
    return made


def _control_tokens(tokenizer: PreTrainedTokenizerFast) -> ControlTokens:
    added = tokenizer.added_tokens_decoder.values()
    contents = [token.content for token in added if token.special or re.search(r"[^\w\s]", token.content)]
    contents.sort(key=len, reverse=True)  # the longest that fits, as the tokenizer itself takes it
    names = {content: f"{MARK[:4]}{index}{MARK[4:]}" for index, content in enumerate(contents)}
    choices = "|".join(map(re.escape, contents)) or r"(?!)"
    return ControlTokens(
        names=names,
        twin=_twin(tokenizer.backend_tokenizer, names),
        anywhere=re.compile(f"(?=(?:{choices})).", re.DOTALL),
        unmarked=re.compile(f"(?<!{MARK})(?:{choices})"),
        prefixes=frozenset(content[:size] for content in contents for size in range(1, len(content))),
        suffixes=frozenset(content[-size:] for content in contents for size in range(1, len(content))),
        longest=max(map(len, contents), default=0),
    )


def _twin(backend: Tokenizer, names: Mapping[str, str]) -> Tokenizer:
    """The same tokenizer with its added tokens renamed, wherever its file mentions them."""
    spec = json.loads(backend.to_str())
    for token in spec["added_tokens"]:
        token["content"] = names.get(token["content"], token["content"])
    model = spec["model"]
    if isinstance(model["vocab"], dict):
        model["vocab"] = {names.get(piece, piece): index for piece, index in model["vocab"].items()}
    else:  # Unigram: [piece, score]
        model["vocab"] = [[names.get(piece, piece), score] for piece, score in model["vocab"]]
    if model.get("unk_token") is not None:
        model["unk_token"] = names.get(model["unk_token"], model["unk_token"])
    if "merges" in model:  # a merge that would make a control token out of its letters
        pairs = [merge.split(" ") if isinstance(merge, str) else merge for merge in model["merges"]]
        model["merges"] = [pair for pair in pairs if names.keys().isdisjoint({*pair, "".join(pair)})]
    spec |= {"post_processor": None, "truncation": None, "padding": None}
    return Tokenizer.from_str(json.dumps(spec))


def _strings(value: Any) -> Iterable[str]:
    if isinstance(value, str):
        yield value
    elif isinstance(value, dict):
        for key, item in value.items():
            yield key
            yield from _strings(item)
    elif isinstance(value, list):
        for item in value:
            yield from _strings(item)
