"""Texts -> token ids in which no text can spell a control token."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from tokenizers import Encoding
from tokenizers.processors import Sequence as Processors
from tokenizers.processors import TemplateProcessing
from transformers import PreTrainedTokenizerFast


@dataclass(frozen=True, slots=True)
class EncodedTexts:
    """Texts as a classifier reads them, one list of ids each."""

    input_ids: list[list[int]]
    token_type_ids: list[list[int]] | None
    """0 for the first text of a row and 1 for its pair; None for tokenizers that make no such ids."""
    truncated: int
    """Rows that were cut."""


def encode_documents(tokenizer: PreTrainedTokenizerFast, texts: list[str]) -> list[list[int]]:
    """Tokenise plain text, without begin or end tokens; text that spells a special token stays ordinary text."""
    if not texts:
        return []
    # `<|eos|>` in a document would otherwise become the real one: https://github.com/huggingface/transformers/issues/29279
    encoded = tokenizer(texts, add_special_tokens=False, split_special_tokens=True, return_attention_mask=False)
    ids: list[list[int]] = encoded["input_ids"]
    control = _control_tokens(tokenizer)
    return [row if control.keys().isdisjoint(row) else _spelled_out(tokenizer, row, control) for row in ids]


def encode_texts(
    tokenizer: PreTrainedTokenizerFast, texts: list[str], pairs: Sequence[str | None] | None, max_length: int | None
) -> EncodedTexts:
    """Tokenise texts, each with its pair where it has one, with the special tokens that the tokenizer puts around them.

    Rows longer than `max_length` are cut (of two texts the longer one), special tokens are not. What spells a special
    token in a text stays text. A row has one token at least: an empty text without special tokens becomes the begin,
    end or padding token.
    """
    joined = [pair or None for pair in pairs or [None] * len(texts)]  # an empty pair is none, as in transformers
    alone = [text for text, pair in zip(texts, joined, strict=True) if pair is None]
    both = [(text, pair) for text, pair in zip(texts, joined, strict=True) if pair is not None]
    single, double = iter(_encodings(tokenizer, alone, max_length)), iter(_encodings(tokenizer, both, max_length))
    encodings = [next(single) if pair is None else next(double) for pair in joined]
    control = _control_tokens(tokenizer)
    rows = [
        (encoding.ids, encoding.type_ids)
        if control.keys().isdisjoint(encoding.ids)
        else _spell_out_text(tokenizer, encoding, control, max_length)
        for encoding in encodings
    ]
    rows = [row if row[0] else ([_something(tokenizer)], [0]) for row in rows]
    typed = "token_type_ids" in tokenizer.model_input_names
    return EncodedTexts(
        [ids for ids, _ in rows],
        [types for _, types in rows] if typed else None,
        sum(bool(encoding.overflowing) for encoding in encodings),
    )


def separate_pairs(tokenizer: PreTrainedTokenizerFast) -> None:
    """Let the tokenizer put its end token between the two texts of a row, where it would put nothing.

    Tokenizers of decoders run the texts together. The change is saved with the tokenizer, so that all who load it
    read pairs as they were trained.
    """
    backend = tokenizer.backend_tokenizer
    whose = backend.encode("a", "a").sequence_ids  # 0, 1, or None for what belongs to neither
    if None in whose[whose.index(0) : whose.index(1)] or tokenizer.eos_token is None:
        return
    template = TemplateProcessing(
        single="$A", pair=f"$A {tokenizer.eos_token} $B", special_tokens=[(tokenizer.eos_token, tokenizer.eos_token_id)]
    )
    before = backend.post_processor
    backend.post_processor = template if before is None else Processors([before, template])


def _encodings(
    tokenizer: PreTrainedTokenizerFast, texts: list[str] | list[tuple[str, str]], max_length: int | None
) -> list[Encoding]:
    if not texts:
        return []
    backend = tokenizer.backend_tokenizer
    before = backend.encode_special_tokens
    backend.encode_special_tokens = True
    try:
        if max_length is not None:
            backend.enable_truncation(max_length)
        backend.no_padding()
        return backend.encode_batch(texts)
    finally:  # all of it would be saved with the tokenizer
        backend.encode_special_tokens = before
        backend.no_truncation()


def _something(tokenizer: PreTrainedTokenizerFast) -> int:
    candidates = (tokenizer.bos_token_id, tokenizer.eos_token_id, tokenizer.pad_token_id)
    index: int = next(index for index in candidates if index is not None)
    return index


def _control_tokens(tokenizer: PreTrainedTokenizerFast) -> dict[int, str]:
    """Unigram and word-level vocabularies hold special tokens as ordinary entries too, and find them in text."""
    control = {index: token.content for index, token in tokenizer.added_tokens_decoder.items() if token.special}
    control.pop(tokenizer.unk_token_id, None)
    return control


def _spell_out_text(
    tokenizer: PreTrainedTokenizerFast, encoding: Encoding, control: dict[int, str], max_length: int | None
) -> tuple[list[int], list[int]]:
    """Ids and type ids of a row, each control token of its text as the tokens of its characters, cut anew."""
    ids: list[int] = []
    types: list[int] = []
    added: list[bool] = []
    for index, kind, special in zip(encoding.ids, encoding.type_ids, encoding.special_tokens_mask, strict=True):
        spelled = [index] if special else _spelled_out(tokenizer, [index], control)
        ids += spelled
        types += [kind] * len(spelled)
        added += [bool(special)] * len(spelled)
    excess = 0 if max_length is None else max(0, len(ids) - max_length)
    last_of_text = [place for place in range(len(ids)) if not added[place]][len(ids) - sum(added) - excess :]
    for place in reversed(last_of_text):
        del ids[place], types[place]
    return ids, types


def _spelled_out(tokenizer: PreTrainedTokenizerFast, row: list[int], control: dict[int, str]) -> list[int]:
    """Write each control token of `row` as the tokens of its characters; unknown where the vocabulary lacks one."""
    spelled: list[int] = []
    for index in row:
        spelled += [_id_of(tokenizer, character) for character in control[index]] if index in control else [index]
    return spelled


def _id_of(tokenizer: PreTrainedTokenizerFast, token: str) -> int:
    index: int = tokenizer.convert_tokens_to_ids(token)  # type: ignore[assignment]
    return index
