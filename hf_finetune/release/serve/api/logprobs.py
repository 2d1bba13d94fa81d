"""The probabilities of tokens, in OpenAI's two forms."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from transformers import PreTrainedTokenizerFast
from transformers.convert_slow_tokenizer import bytes_to_unicode

from hf_finetune.release.serve.engine.jobs import TokenScore

# JSON has no minus infinity: OpenAI's number for what never comes.
LOWEST = -9999.0
REPLACED = "\N{REPLACEMENT CHARACTER}"


def write_chat_logprobs(tokenizer: PreTrainedTokenizerFast, scores: Sequence[TokenScore]) -> dict[str, Any]:
    """The field `logprobs` of a choice in a chat."""
    return {
        "content": [
            _write_token(tokenizer, each.token, each.logprob)
            | {"top_logprobs": [_write_token(tokenizer, *one) for one in each.likeliest]}
            for each in scores
        ],
        "refusal": None,
    }


def _write_token(tokenizer: PreTrainedTokenizerFast, token: int, logprob: float) -> dict[str, Any]:
    text = _decode(tokenizer, token)
    return {"token": text, "logprob": max(logprob, LOWEST), "bytes": _list_bytes(tokenizer, token, text)}


def _list_bytes(tokenizer: PreTrainedTokenizerFast, token: int, text: str) -> list[int]:
    """The bytes of a token, of one that is a part of a character as well: a client puts the parts together by them."""
    piece = str(tokenizer.convert_ids_to_tokens(token)) if REPLACED in text else ""
    if piece.startswith("<0x") and len(piece) == 6:  # of SentencePiece: <0xE2>
        return [int(piece[3:5], 16)]
    # A byte-level tokenizer writes each byte as a letter of this alphabet.
    letters = {letter: byte for byte, letter in bytes_to_unicode().items()} if piece else {}
    if piece and letters.keys() >= set(piece):
        return [letters[letter] for letter in piece]
    return list(text.encode("utf-8", "replace"))


def write_text_logprobs(
    tokenizer: PreTrainedTokenizerFast, scores: Sequence[TokenScore], offset: int = 0
) -> dict[str, Any]:
    """The field `logprobs` of a choice in a completion; `offset` is where its first token stands."""
    tokens = [_decode(tokenizer, each.token) for each in scores]
    offsets = [offset]
    for text in tokens:
        offsets.append(offsets[-1] + len(text))
    return {
        "tokens": tokens,
        "token_logprobs": [max(each.logprob, LOWEST) for each in scores],
        "top_logprobs": [
            {_decode(tokenizer, token): max(logprob, LOWEST) for token, logprob in each.likeliest} for each in scores
        ],
        "text_offset": offsets[:-1],
    }


def _decode(tokenizer: PreTrainedTokenizerFast, token: int) -> str:
    return str(tokenizer.decode([token], clean_up_tokenization_spaces=False))
