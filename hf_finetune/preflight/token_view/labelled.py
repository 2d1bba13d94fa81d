"""Texts to classify, token by token, with their labels; and any text as a classifier or a model is given it."""

from __future__ import annotations

import json
from collections.abc import Sequence
from typing import Any

from tokenizers import Encoding
from transformers import PreTrainedTokenizerFast

from hf_finetune.chat.given_up import name_row
from hf_finetune.data import Splits, freeze_labels, get_padded_width, tokenize_labelled
from hf_finetune.data.tokenization.labelled import LONGEST_TRAIN, has_pairs
from hf_finetune.data.tokenization.text import encode_pairs, find_placeholder, separate_pairs
from hf_finetune.metric_info import say_count
from hf_finetune.preflight.findings import Place
from hf_finetune.preflight.token_view.pieces import split_text
from hf_finetune.preflight.token_view.settings import TokenSettings
from hf_finetune.preflight.token_view.spans import TokenSpan, TokenView, cut_spans

Row = tuple[str, str | None]
"""A text, and its pair."""


def view_labelled(splits: Splits, split: str, settings: TokenSettings, numbers: Sequence[int]) -> list[TokenView]:
    """View rows of a split with their labels, which are learned from all tokens: none of them is predicted."""
    tokenizer = settings.tokenizer
    if any(has_pairs(rows) for rows in splits.rows.values()):
        separate_pairs(tokenizer)
    limit, width = settings.limit, None
    if settings.data.max_length == LONGEST_TRAIN:
        # How long the longest training row is, is known when all of them are tokenized.
        train_limit = limit
        facts = tokenize_labelled(splits, tokenizer, freeze_labels(splits, settings.data), settings.data, limit)[1]
        width = get_padded_width(settings.data, facts)
        limit = train_limit if split == "train" else width
    views = []
    for number in numbers:
        row: dict[str, Any] = splits.rows[split][number]
        place = Place(*splits.locate(split, number))
        with name_row(place.path, place.line):
            spans = encode_spans(tokenizer, (row["text"], row["text_pair"]), limit)
        given = sum(span.is_given for span in spans)
        if width is not None and given < width:
            spans.append(TokenSpan("", tokenizer.pad_token_id, "padding", count=width - given))
        notes = [f"label: {_write_label(row['label'])}, learned from all tokens"]
        if any(span.kind == "cut" for span in spans):
            notes.append(f"cut at {say_count(limit or 0, 'token')}")
        views.append(TokenView(f"{place.path}:{place.line}", tuple(spans), split, (place,), tuple(notes)))
    return views


def encode_spans(tokenizer: PreTrainedTokenizerFast, row: Row, limit: int | None = None) -> list[TokenSpan]:
    """The tokens of a text and its pair, cut at `limit`, with the special ones that the tokenizer puts around them.

    Raises `TextGivenUp`.
    """
    [kept] = encode_pairs(tokenizer, [row], limit, offsets=True)
    # Whole once more: each part in `overflowing` has the special tokens again, and of a pair each text several times.
    [whole] = encode_pairs(tokenizer, [row], None, offsets=True) if kept.overflowing else [kept]
    if not kept.ids:
        index = find_placeholder(tokenizer)
        return [TokenSpan(str(tokenizer.convert_ids_to_tokens(index)), index, "control")]
    rest = [_Rest(text or "", whole, whose) for whose, text in enumerate(row)]
    contents = {index: token.content for index, token in tokenizer.added_tokens_decoder.items()}
    spans: list[TokenSpan] = []
    for index, whose in zip(kept.ids, kept.sequence_ids, strict=True):
        # What is cut off stands where its text ends: before a special token, or the second text.
        for number in (0, 1):
            if whose != number and rest[number].begun:
                spans += rest[number].cut()
        if whose is None:
            spans.append(TokenSpan(contents.get(index, ""), index, "control"))
        else:
            spans.append(TokenSpan(rest[whose].take(), index, "context", unknown=index == tokenizer.unk_token_id))
    return [*spans, *rest[0].cut(), *rest[1].cut()]


class _Rest:
    """What is left of the tokens of one of the two texts of a row, as they are walked."""

    def __init__(self, text: str, whole: Encoding, whose: int) -> None:
        numbers = [number for number, each in enumerate(whole.sequence_ids) if each == whose]
        self.ids = [whole.ids[number] for number in numbers]
        self.texts = split_text(text, [whole.offsets[number] for number in numbers])
        self.taken = 0

    @property
    def begun(self) -> bool:
        return self.taken > 0

    def take(self) -> str:
        """The text of the next token."""
        self.taken += 1
        return self.texts[self.taken - 1]

    def cut(self) -> list[TokenSpan]:
        """Those that are not taken, as what is cut off; none the next time."""
        cut = cut_spans(self.ids[self.taken :], self.texts[self.taken :])
        self.taken = len(self.ids)
        return cut


def _write_label(label: Any) -> str:
    return label if isinstance(label, str) else json.dumps(label, ensure_ascii=False)
