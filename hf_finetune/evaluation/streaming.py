"""Token ids as they are drawn -> pieces of text that can be shown at once."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

from transformers import PreTrainedTokenizerFast
from transformers.generation.streamers import BaseStreamer

# What a decoder writes for bytes that are no whole character, or none yet.
UNFINISHED = "\ufffd"
# Some decoders drop the space before the first word of what they are given: this much of the prompt goes before it.
TOKENS_BEFORE = 6


class TextPieces:
    """Turns tokens into pieces of text; a character that is still without its last bytes is held back.

    Each step decodes a few tokens, not the whole text. The pieces join to the text of all tokens, but for bytes that
    are no character: there some decoders give up the characters before them, too, which are already shown here.
    """

    def __init__(self, tokenizer: PreTrainedTokenizerFast, before: Sequence[int]) -> None:
        """`before` are the tokens that the text goes on from."""
        self.tokenizer = tokenizer
        self.ids = list(before[-TOKENS_BEFORE:])
        self.first = 0
        self.shown = len(self.ids)

    def add(self, token: int) -> str:
        """The text that is certain now and was not before; often "" within a character."""
        self.ids.append(token)
        text = self._new_text()
        if text.endswith(UNFINISHED):
            return ""
        self.first, self.shown = self.shown, len(self.ids)
        return text

    def rest(self) -> str:
        """What was held back, once nothing follows."""
        text = self._new_text()
        self.first = self.shown = len(self.ids)
        return text

    def _new_text(self) -> str:
        before = self._decode(self.ids[self.first : self.shown])
        return self._decode(self.ids[self.first :])[len(before) :]

    def _decode(self, ids: list[int]) -> str:
        # Cleaning up takes spaces out of what is already shown, once a comma follows.
        return str(self.tokenizer.decode(ids, clean_up_tokenization_spaces=False))


def text_after(tokenizer: PreTrainedTokenizerFast, before: Sequence[int], new: Sequence[int]) -> str:
    """The text of `new` tokens that go on from those `before`: what `TextPieces` gives in all."""
    known = list(before[-TOKENS_BEFORE:])
    start, whole = (str(tokenizer.decode(ids, clean_up_tokenization_spaces=False)) for ids in (known, [*known, *new]))
    if UNFINISHED not in start + whole and whole.startswith(start):  # as good as always, and 50 times faster
        return whole[len(start) :]
    pieces = TextPieces(tokenizer, before)
    return "".join([*map(pieces.add, new), pieces.rest()])


class TokenStream(BaseStreamer):
    """Hands each new token of one call of `generate` on; the prompt, which comes first, is left out."""

    def __init__(self, take: Callable[[int], object]) -> None:
        self.take = take
        self.in_prompt = True

    def put(self, value: Any) -> None:
        if not self.in_prompt:
            for token in value.tolist():
                self.take(token)
        self.in_prompt = False

    def end(self) -> None:
        pass
