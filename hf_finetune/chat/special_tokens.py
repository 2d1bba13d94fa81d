"""Control tokens come from the chat template and the tokenizer alone, never from the text of a row.

A rendered conversation is one string, and a tokenizer finds `<|im_end|>` in it whoever wrote it
(https://github.com/huggingface/transformers/issues/29279). Here the text of messages is marked before it is rendered
wherever it spells an added token; what is found unmarked afterwards was written by the template. The ids come from a
twin of the tokenizer whose added tokens have names that no text can contain, in one pass over the whole string, so
that text without such spellings gets exactly the ids that the tokenizer itself would give. Documents, and texts to
classify, are tokenized by such a twin as they are: none of its control tokens can be in them.

All of this can go once transformers tokenizes messages apart from the template (the issue is open in 5.23).
"""

from __future__ import annotations

import json
import re
import secrets
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import accumulate, pairwise
from typing import Any
from weakref import WeakKeyDictionary

from tokenizers import AddedToken, Encoding, Tokenizer
from transformers import PreTrainedTokenizerFast

from hf_finetune.chat.any_of import find_any
from hf_finetune.chat.given_up import encode_batch
from hf_finetune.chat.long_texts.borders import splits_at_borders
from hf_finetune.chat.long_texts.pieces import Encoded, encode_each

# Unicode's noncharacters, in an order that is drawn anew in each process: no text can have been written to contain it.
_NONCHARACTERS = [chr(code) for code in range(0xFDD0, 0xFDF0)]
MARK = "".join(secrets.choice(_NONCHARACTERS) for _ in range(12))
_TWIN_NAME = re.compile(rf"{MARK[:4]}\d+{MARK[4:]}")


@dataclass(frozen=True, slots=True)
class TokenizedText:
    """Token ids of one string, and the characters that each stands for."""

    ids: Sequence[int]
    """(tokens,)"""
    encoding: Encoded
    """Knows for which characters of the twin's string each token stands."""
    bounds: list[int]
    """The positions that `encode` was given, in the same string."""
    text: str
    """That string: control tokens under the names of the twin, all else as it was written."""

    def find_characters(self, token: int) -> tuple[int, int]:
        """Find the (start, stop) characters of token number `token`, in the twin's string."""
        # A list of all would take a hundred bytes a token, and longer than to tokenize a tenth of the text.
        characters = self.encoding.token_to_chars(token)
        assert characters is not None
        return characters

    def is_control(self, token: int) -> bool:
        """Whether token number `token` is a control token, and not one of the text."""
        start, stop = self.find_characters(token)
        return self.text[start:stop].startswith(MARK[0])

    def read_text(self, start: int, stop: int) -> str:
        """The text that the tokens from `start` to `stop` stand for, as it was written, without control tokens."""
        return _TWIN_NAME.sub("", self.text[self.find_characters(start)[0] : self.find_characters(stop - 1)[1]])


@dataclass(frozen=True)
class ControlTokens:
    """The tokens of a tokenizer that structure a text, and the tokenizer without them."""

    names: Mapping[str, str]
    """The name of each control token in the twin."""
    twin: Tokenizer
    """The tokenizer with its control tokens renamed."""
    anywhere: re.Pattern[str]
    """Matches the first character of each control token that a text spells."""
    unmarked: re.Pattern[str]
    """Matches a control token that is not marked as text."""
    first: re.Pattern[str]
    """Matches the first character of a control token."""
    last: re.Pattern[str]
    prefixes: frozenset[str]
    """Proper prefixes of control tokens."""
    suffixes: frozenset[str]
    """Proper suffixes of control tokens."""
    sizes: tuple[int, ...]
    """The lengths of control tokens, the longest first."""
    in_pieces: bool
    """Whether the twin gives the pieces of a long text the tokens of the whole."""

    def encode_plain(self, texts: Sequence[str], *, offsets: bool = True) -> list[Encoding]:
        """Tokenize texts that nothing was rendered into, so that they hold no control token: (tokens,) per text.

        Without `offsets` it is faster, and the characters of a token are not known. Raises `TextGivenUp`.
        """
        return encode_batch(self.twin, texts, offsets=offsets)

    def encode_ids(self, texts: Sequence[str]) -> list[Sequence[int]]:
        """The token ids alone of such texts: (tokens,) per text. Of a long one memory follows a piece of it."""
        return [each.ids for each in encode_each(self.twin, texts, in_pieces=self.in_pieces, offsets=False)]

    def find_spelled(self, value: Any) -> set[str]:
        """Find the control tokens that the strings inside `value` (JSON-like) spell."""
        if not self.names:
            return set()
        texts = list(iterate_strings(value))
        if not any(self.anywhere.search(text) for text in texts):
            return set()
        return {token for text in texts for token in self._find_in(text)}

    def _find_in(self, text: str) -> Iterator[str]:
        """Find the control tokens that a text spells, also where one is part of another."""
        for first in self.anywhere.finditer(text):
            for size in self.sizes:
                if text[first.start() : first.start() + size] in self.names:
                    yield text[first.start() : first.start() + size]

    def mark(self, value: Any) -> Any:
        """Mark, in every string inside `value` (JSON-like), what spells a control token or may be completed to one."""
        # With ~ for MARK, `<|im_end|>` becomes `~<~|im_end|>`: neither the twin nor the template finds it. `<|im_`, at
        # the end of a text, becomes `~<|im_`: a template that goes on with `end|>` completes no control token.
        if isinstance(value, str):
            return self._mark_text(value)
        if isinstance(value, dict):
            # A template reads keys and roles: they are marked only where they spell a control token in whole.
            marks = {"role": self._break_up}
            return {self._break_up(key): marks.get(key, self.mark)(item) for key, item in value.items()}
        if isinstance(value, list):
            return [self.mark(item) for item in value]
        return value

    def _break_up(self, text: str) -> str:
        """Mark the control tokens that `text` spells, and split each in two: the template must not find them either."""
        return self.anywhere.sub(lambda first: f"{MARK}{first[0]}{MARK}", text)

    def _mark_text(self, text: str) -> str:
        """Mark the control tokens of `text`, and their parts at its two ends."""
        if not self.names or not text:
            return text
        if size := self.find_begun(text):  # a token begun here, ended by the template
            text = f"{text[:-size]}{MARK}{text[-size:]}"
        start = len(text) - len(text.lstrip())
        if self._find_ended(text, start):  # a token begun by the template, ended here
            text = f"{text[:start]}{MARK}{text[start:]}"
        return self._break_up(text)

    def is_free(self, text: str) -> bool:
        """Whether a text spells no control token, and none can come of its ends and what is written around it."""
        return not self.names or not (
            self.anywhere.search(text) or self.find_begun(text) or self._find_ended(text, 0) or MARK in text
        )

    def find_begun(self, text: str) -> int:
        """Count the characters at the end of a text that begin a control token."""
        if not self.names:
            return 0
        if not self.first.search(text, max(0, len(text) - self.sizes[0])):
            return 0
        sizes = range(1, min(self.sizes[0], len(text) + 1))
        return next((size for size in sizes if text[-size:] in self.prefixes), 0)

    def _find_ended(self, text: str, start: int) -> int:
        """Count the characters from `start` on that end a control token."""
        if not self.last.search(text, start, start + self.sizes[0]):
            return 0
        sizes = range(1, min(self.sizes[0], len(text) - start + 1))
        return next((size for size in sizes if text[start : start + size] in self.suffixes), 0)

    def encode(self, texts: Sequence[str], bounds: Sequence[Sequence[int]]) -> list[TokenizedText]:
        """Tokenize rendered texts; only what is not marked becomes a control token.

        `bounds` are sorted positions in each text, none of them inside a control token. Returns one result per text.
        Raises `TextGivenUp`.
        """
        pieces = [
            [self._rename_tokens(text[start:stop]) for start, stop in pairwise([0, *inner, len(text)])]
            for text, inner in zip(texts, bounds, strict=True)
        ]
        joined = ["".join(parts) for parts in pieces]
        encoded = encode_each(self.twin, joined, in_pieces=self.in_pieces)
        return [
            TokenizedText(one.ids, one, list(accumulate(len(part) for part in parts[:-1])), text)
            for one, parts, text in zip(encoded, pieces, joined, strict=True)
        ]

    def _rename_tokens(self, text: str) -> str:
        return self.unmarked.sub(lambda match: self.names[match[0]], text).replace(MARK, "")


_cached: WeakKeyDictionary[PreTrainedTokenizerFast, dict[tuple[int, bool], ControlTokens]] = WeakKeyDictionary()


def get_control_tokens(tokenizer: PreTrainedTokenizerFast, *, only_special: bool = False) -> ControlTokens:
    """Return the control tokens of `tokenizer`, computed once for each size of its vocabulary.

    They are its `special` tokens and other added ones with punctuation, such as `<think>`; added ones of letters,
    digits and spaces alone extend the vocabulary, and count as text. With `only_special`, so do all that are not
    `special`: in a conversation only the template may write `<think>` or `<table>`, but a document may well hold the
    tokens that its model has learned from documents.
    """
    made = _cached.setdefault(tokenizer, {})
    key = len(tokenizer), only_special
    if key not in made:
        made[key] = _find_control_tokens(tokenizer, only_special)
    return made[key]


def add_control_tokens(tokenizer: PreTrainedTokenizerFast, tokens: Sequence[str]) -> None:
    """Add `special` tokens to the vocabulary of `tokenizer`, or make them special that are in it as words."""
    added = [AddedToken(token, special=True, normalized=False) for token in tokens]
    tokenizer.add_tokens(added, special_tokens=True)
    _cached.pop(tokenizer, None)  # a word that becomes special leaves the size as it is


def _find_control_tokens(tokenizer: PreTrainedTokenizerFast, only_special: bool) -> ControlTokens:
    # <|im_end|>, [INST] and <think> structure a text; "Zyklotron", added to a vocabulary, is a word, and so is "!".
    punctuated = re.compile(r"(?!)" if only_special else r"[^\w\s].|.[^\w\s]")
    spec: dict[str, Any] = json.loads(tokenizer.backend_tokenizer.to_str())
    bytes_of_text = _find_byte_pieces(spec["model"])
    added = [token for token in tokenizer.added_tokens_decoder.values() if token.content not in bytes_of_text]
    contents = [token.content for token in added if token.special or punctuated.search(token.content)]
    names = {content: f"{MARK[:4]}{index}{MARK[4:]}" for index, content in enumerate(contents)}
    twin = _build_twin(spec, names, bytes_of_text)
    return ControlTokens(
        names=names,
        twin=twin,
        anywhere=find_any(contents, first_alone=True),
        unmarked=find_any(contents, not_behind=MARK),
        first=find_any([content[0] for content in contents]),
        last=find_any([content[-1] for content in contents]),
        prefixes=frozenset(content[:size] for content in contents for size in range(1, len(content))),
        suffixes=frozenset(content[-size:] for content in contents for size in range(1, len(content))),
        sizes=tuple(sorted({len(content) for content in contents}, reverse=True)),
        in_pieces=splits_at_borders(spec),
    )


def _find_byte_pieces(model: Mapping[str, Any]) -> frozenset[str]:
    """Find the pieces, `<0x0A>` and the like, in which a model with byte fallback writes what it has no piece for."""
    if not model.get("byte_fallback"):
        return frozenset()
    named = model["vocab"] if isinstance(model["vocab"], dict) else (piece for piece, _ in model["vocab"])
    return frozenset(f"<0x{byte:02X}>" for byte in range(256)).intersection(named)


def _build_twin(spec: dict[str, Any], names: Mapping[str, str], bytes_of_text: frozenset[str]) -> Tokenizer:
    """Build the tokenizer of `spec`, a tokenizer.json, with its control tokens renamed wherever they are mentioned.

    `spec` is that of the twin then.
    `bytes_of_text` keep their names in the vocabulary, where the model looks for them, and are no added tokens.
    """
    # The ids stay: only names change, so a model reads the twin's ids as those of the tokenizer.
    spec["added_tokens"] = [token for token in spec["added_tokens"] if token["content"] not in bytes_of_text]
    for token in spec["added_tokens"]:
        if token["content"] in names:
            # A normalizer may drop what the name is made of, and leave the digits, as one for ASCII alone.
            token |= {"content": names[token["content"]], "normalized": False}
    model = spec["model"]
    if isinstance(model["vocab"], dict):
        model["vocab"] = {names.get(piece, piece): index for piece, index in model["vocab"].items()}
    else:  # Unigram: [piece, score]
        model["vocab"] = [[names.get(piece, piece), score] for piece, score in model["vocab"]]
    if model.get("unk_token") is not None:
        model["unk_token"] = names.get(model["unk_token"], model["unk_token"])
    if "merges" in model:  # BPE would build a control token from its letters
        pairs = [merge.split(" ") if isinstance(merge, str) else merge for merge in model["merges"]]
        model["merges"] = [pair for pair in pairs if names.keys().isdisjoint({*pair, "".join(pair)})]
    # The template writes BOS itself: a post-processor would add a second one.
    spec |= {"post_processor": None, "truncation": None, "padding": None}
    return Tokenizer.from_str(json.dumps(spec))


def iterate_strings(value: Any) -> Iterator[str]:
    """Yield the strings, and the keys, inside a JSON-like value."""
    if isinstance(value, str):
        yield value
    elif isinstance(value, dict):
        for key, item in value.items():
            yield key
            yield from iterate_strings(item)
    elif isinstance(value, list):
        for item in value:
            yield from iterate_strings(item)
