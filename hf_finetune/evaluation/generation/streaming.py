"""Incremental detokenization: token ids as they are generated -> pieces of text that can be shown at once."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

from transformers import PreTrainedTokenizerFast
from transformers.generation.streamers import BaseStreamer

# U+FFFD: what a decoder writes for bytes that are no whole character, or not yet.
REPLACEMENT_CHARACTER = "\ufffd"
# Some decoders drop the space before the first word that they are given: decoding starts this many prompt tokens back.
CONTEXT_TOKENS = 6


class IncrementalDetokenizer:
    """Decode tokens into pieces of text; a character of which bytes are still missing is held back.

    Each step decodes a few tokens, not the whole text. The pieces join to the text of all tokens, except around bytes
    that form no character: there some decoders drop the characters before them, too, which are already shown here.
    """

    # The algorithm of TGI and of `tokenizers.decoders.DecodeStream`. That cannot take its place: in tokenizers 0.23.3
    # it raises "Invalid prefix" where byte fallback takes back a character (b"A" then b"\xc3" is "A" then two U+FFFD),
    # and cannot flush what it holds back. This class can go once it does both:
    # https://github.com/huggingface/tokenizers/pull/1677
    #
    # Byte-level tokens of "né": add(b"n") -> "n"; add(b"\xc3") -> "", its second byte is missing; add(b"\xa9") -> "é".

    def __init__(self, tokenizer: PreTrainedTokenizerFast, before: Sequence[int]) -> None:
        """`before` are the tokens that the text continues, of which the last few are kept."""
        self.tokenizer = tokenizer
        self.ids = list(before[-CONTEXT_TOKENS:])
        self.first = 0
        self.shown = len(self.ids)

    def add(self, token: int) -> str:
        """Return the text that has become certain with `token`; often "" within a character."""
        self.ids.append(token)
        text = self._decode_new()
        if text.endswith(REPLACEMENT_CHARACTER):
            return ""
        self.first, self.shown = self.shown, len(self.ids)
        return text

    def flush(self) -> str:
        """Return what was held back, once no token follows."""
        text = self._decode_new()
        self.first = self.shown = len(self.ids)
        return text

    def _decode_new(self) -> str:
        before = self._decode(self.ids[self.first : self.shown])
        return self._decode(self.ids[self.first :])[len(before) :]

    def _decode(self, ids: list[int]) -> str:
        # Cleaning up removes spaces from text that is already shown, once a comma follows.
        return str(self.tokenizer.decode(ids, clean_up_tokenization_spaces=False))


def decode_after(tokenizer: PreTrainedTokenizerFast, before: Sequence[int], new: Sequence[int]) -> str:
    """Decode `new` tokens that follow those `before` them: what `IncrementalDetokenizer` gives in all."""
    known = list(before[-CONTEXT_TOKENS:])
    start, whole = (str(tokenizer.decode(ids, clean_up_tokenization_spaces=False)) for ids in (known, [*known, *new]))
    if REPLACEMENT_CHARACTER not in start + whole and whole.startswith(start):  # nearly always, and 50 times faster
        return whole[len(start) :]
    pieces = IncrementalDetokenizer(tokenizer, before)
    return "".join([*map(pieces.add, new), pieces.flush()])


class TokenStreamer(BaseStreamer):
    """Pass each new token of one `generate` call to `on_token`."""

    def __init__(self, on_token: Callable[[int], object]) -> None:
        self.on_token = on_token
        self.in_prompt = True

    def put(self, value: Any) -> None:
        """`value`: (1, seq), the prompt, at the first call; (1,), a new token, at those that follow."""
        if not self.in_prompt:
            for token in value.tolist():
                self.on_token(token)
        self.in_prompt = False

    def end(self) -> None:
        pass
