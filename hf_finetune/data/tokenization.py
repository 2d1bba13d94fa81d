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
    return ids
