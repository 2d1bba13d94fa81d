"""Texts -> token ids; a text that spells a special token stays text."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from tokenizers import Encoding
from tokenizers.processors import Sequence as Processors
from tokenizers.processors import TemplateProcessing
from transformers import PreTrainedTokenizerFast


@dataclass(frozen=True, slots=True)
class EncodedTexts:
    """Tokenized texts of a classifier: one list (tokens,) per row."""

    input_ids: list[list[int]]
    token_type_ids: list[list[int]] | None
    """0 for the first text of a row and 1 for its pair; None for tokenizers without such ids."""
    truncated: int
    """Number of rows that were cut."""


def encode_documents(tokenizer: PreTrainedTokenizerFast, texts: list[str]) -> list[list[int]]:
    """Tokenize plain texts without BOS or EOS: one list of ids (tokens,) per text.

    A text that spells a special token stays ordinary text.
    """
    if not texts:
        return []
    # Without `split_special_tokens`, `<|eos|>` in a document becomes the real one. Can go once that is the default for
    # text: https://github.com/huggingface/transformers/issues/29279 (open in 5.23).
    encoded = tokenizer(texts, add_special_tokens=False, split_special_tokens=True, return_attention_mask=False)
    ids: list[list[int]] = encoded["input_ids"]
    control = _find_special_tokens(tokenizer)
    return [row if control.keys().isdisjoint(row) else _spell_out(tokenizer, row, control) for row in ids]


def encode_texts(
    tokenizer: PreTrainedTokenizerFast, texts: list[str], pairs: Sequence[str | None] | None, max_length: int | None
) -> EncodedTexts:
    """Tokenize texts, each with its pair if it has one, with the special tokens that the tokenizer puts around them.

    Rows longer than `max_length` are cut (of two texts the longer one), but for their special tokens. A text that
    spells a special token stays text. A row has at least one token: an empty one becomes BOS, EOS or padding.
    """
    joined = [pair or None for pair in pairs or [None] * len(texts)]  # an empty pair is none, as in transformers
    alone = [text for text, pair in zip(texts, joined, strict=True) if pair is None]
    both = [(text, pair) for text, pair in zip(texts, joined, strict=True) if pair is not None]
    single, double = iter(_encode_batch(tokenizer, alone, max_length)), iter(_encode_batch(tokenizer, both, max_length))
    encodings = [next(single) if pair is None else next(double) for pair in joined]
    control = _find_special_tokens(tokenizer)
    rows = [
        (encoding.ids, encoding.type_ids)
        if control.keys().isdisjoint(encoding.ids)
        else _spell_out_text(tokenizer, encoding, control, max_length)
        for encoding in encodings
    ]
    rows = [row if row[0] else ([_find_placeholder(tokenizer)], [0]) for row in rows]
    typed = "token_type_ids" in tokenizer.model_input_names
    return EncodedTexts(
        [ids for ids, _ in rows],
        [types for _, types in rows] if typed else None,
        sum(bool(encoding.overflowing) for encoding in encodings),
    )


def separate_pairs(tokenizer: PreTrainedTokenizerFast) -> None:
    """Make the tokenizer put EOS between the two texts of a row, if it puts nothing there (decoders' do not).

    Changes `tokenizer` in place; the change is saved with it, so pairs are tokenized later as they were in training.
    """
    backend = tokenizer.backend_tokenizer
    # BERT's [CLS] a [SEP] a [SEP] has the sequence ids [None, 0, None, 1, None]: a None stands between the two.
    whose = backend.encode("a", "a").sequence_ids
    if None in whose[whose.index(0) : whose.index(1)] or tokenizer.eos_token is None:
        return
    template = TemplateProcessing(
        single="$A", pair=f"$A {tokenizer.eos_token} $B", special_tokens=[(tokenizer.eos_token, tokenizer.eos_token_id)]
    )
    before = backend.post_processor
    backend.post_processor = template if before is None else Processors([before, template])


def _encode_batch(
    tokenizer: PreTrainedTokenizerFast, texts: list[str] | list[tuple[str, str]], max_length: int | None
) -> list[Encoding]:
    """Tokenize texts or pairs with special tokens, cut at `max_length`: one encoding (tokens,) per text."""
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
    finally:  # these settings would be saved with the tokenizer
        backend.encode_special_tokens = before
        backend.no_truncation()


def _find_placeholder(tokenizer: PreTrainedTokenizerFast) -> int:
    """Return the id that stands for an empty text: BOS, EOS or padding."""
    candidates = (tokenizer.bos_token_id, tokenizer.eos_token_id, tokenizer.pad_token_id)
    index: int = next(index for index in candidates if index is not None)
    return index


def _find_special_tokens(tokenizer: PreTrainedTokenizerFast) -> dict[int, str]:
    """Return the special tokens by id, but for the unknown token."""
    # Unigram and word-level vocabularies have them as ordinary entries too: `split_special_tokens` does not keep these
    # from finding `<s>` in a text.
    control = {index: token.content for index, token in tokenizer.added_tokens_decoder.items() if token.special}
    control.pop(tokenizer.unk_token_id, None)
    return control


def _spell_out_text(
    tokenizer: PreTrainedTokenizerFast, encoding: Encoding, control: dict[int, str], max_length: int | None
) -> tuple[list[int], list[int]]:
    """Spell out the special tokens in the text of a row, and cut it again: ids and type ids, (tokens,) each."""
    # [CLS] a [SEP] [SEP], whose first [SEP] is of the text, becomes [CLS] a [ S E P ] [SEP]. Beyond `max_length`, the
    # last tokens of the text are dropped, and the special tokens around it stay.
    ids: list[int] = []
    types: list[int] = []
    added: list[bool] = []
    for index, kind, special in zip(encoding.ids, encoding.type_ids, encoding.special_tokens_mask, strict=True):
        spelled = [index] if special else _spell_out(tokenizer, [index], control)
        ids += spelled
        types += [kind] * len(spelled)
        added += [bool(special)] * len(spelled)
    excess = 0 if max_length is None else max(0, len(ids) - max_length)
    last_of_text = [place for place in range(len(ids)) if not added[place]][len(ids) - sum(added) - excess :]
    for place in reversed(last_of_text):
        del ids[place], types[place]
    return ids, types


def _spell_out(tokenizer: PreTrainedTokenizerFast, row: list[int], control: dict[int, str]) -> list[int]:
    """Replace each special token of `row` (tokens,) by the tokens of its characters, unknown ones included."""
    spelled: list[int] = []
    for index in row:
        tokens: Any = tokenizer.convert_tokens_to_ids(list(control[index])) if index in control else [index]
        spelled += tokens
    return spelled
