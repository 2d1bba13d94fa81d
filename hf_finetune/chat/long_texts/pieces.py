"""A long text tokenized piece by piece, where its pieces have the tokens of the whole: memory follows the piece."""

from __future__ import annotations

from array import array
from collections.abc import Sequence
from dataclasses import dataclass, field
from itertools import chain, groupby
from typing import Protocol

import numpy as np
import numpy.typing as npt
from tokenizers import Tokenizer

from hf_finetune.chat.given_up import TextGivenUp, encode_batch, say_tokenizing
from hf_finetune.chat.long_texts.borders import LONG, cut_at_borders


class Encoded(Protocol):
    """The tokens of a text, as `tokenizers.Encoding` has them."""

    @property
    def ids(self) -> Sequence[int]:
        """(tokens,)"""

    def token_to_chars(self, token_index: int) -> tuple[int, int] | None:
        """The (start, stop) characters of a token."""


@dataclass(slots=True)
class JoinedEncoding:
    """The tokens of a text that was tokenized in pieces: 12 bytes for each, where an `Encoding` takes a hundred."""

    ids: array[int] = field(default_factory=lambda: array("i"))
    places: list[npt.NDArray[np.int32]] = field(default_factory=list)
    """The (start, stop) characters of the tokens, (tokens, 2): of pieces, and of the whole once they are joined."""

    def token_to_chars(self, token_index: int) -> tuple[int, int]:
        """The (start, stop) characters of a token."""
        [places] = self.places
        start, stop = places[token_index].tolist()
        return start, stop


def encode_each(tokenizer: Tokenizer, texts: Sequence[str], *, in_pieces: bool, offsets: bool = True) -> list[Encoded]:
    """Tokenize texts as `encode_batch` does, long ones `in_pieces` where the tokenizer allows it: `splits_at_borders`.

    Raises `TextGivenUp` with the number of a text.
    """
    encoded: list[Encoded] = []
    try:
        for long, some in groupby(texts, lambda text: in_pieces and len(text) > LONG):
            if not long:
                encoded += encode_batch(tokenizer, list(some), offsets=offsets)
                continue
            for text in some:
                encoded.append(_encode_in_pieces(tokenizer, text, offsets=offsets))
    except TextGivenUp as fault:
        fault.number += len(encoded)
        raise
    return encoded


def _encode_in_pieces(tokenizer: Tokenizer, text: str, *, offsets: bool) -> JoinedEncoding:
    joined = JoinedEncoding()
    with say_tokenizing(len(text)):
        for start, stop in cut_at_borders(text):
            [encoding] = encode_batch(tokenizer, [text[start:stop]], offsets=offsets)
            joined.ids.extend(encoding.ids)
            if offsets:
                flat = chain.from_iterable(encoding.offsets)
                joined.places.append(start + np.fromiter(flat, np.int32, 2 * len(encoding)).reshape(-1, 2))
            del encoding  # before the next one is made
    if offsets:
        joined.places = [np.concatenate(joined.places)]
    return joined
