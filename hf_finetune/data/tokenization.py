"""Texts -> token ids in which no text can spell a control token."""

from __future__ import annotations

from transformers import PreTrainedTokenizerFast


def encode_documents(tokenizer: PreTrainedTokenizerFast, texts: list[str]) -> list[list[int]]:
    """Tokenise plain text, without begin or end tokens; text that spells a special token stays ordinary text."""
    if not texts:
        return []
    # `<|eos|>` in a document would otherwise become the real one: https://github.com/huggingface/transformers/issues/29279
    encoded = tokenizer(texts, add_special_tokens=False, split_special_tokens=True, return_attention_mask=False)
    ids: list[list[int]] = encoded["input_ids"]
    # Unigram and word-level vocabularies hold special tokens as ordinary entries too, and find them in text.
    control = {index: token.content for index, token in tokenizer.added_tokens_decoder.items() if token.special}
    control.pop(tokenizer.unk_token_id, None)
    return [row if control.keys().isdisjoint(row) else _spelled_out(tokenizer, row, control) for row in ids]


def _spelled_out(tokenizer: PreTrainedTokenizerFast, row: list[int], control: dict[int, str]) -> list[int]:
    """Write each control token of `row` as the tokens of its characters; unknown where the vocabulary lacks one."""
    spelled: list[int] = []
    for index in row:
        spelled += [_id_of(tokenizer, character) for character in control[index]] if index in control else [index]
    return spelled


def _id_of(tokenizer: PreTrainedTokenizerFast, token: str) -> int:
    index: int = tokenizer.convert_tokens_to_ids(token)  # type: ignore[assignment]
    return index
