"""Conversations, token by token: under their template, cut, split or left out, and packed."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import Any

from datasets import Dataset

from hf_finetune.chat.special_tokens import TokenizedText
from hf_finetune.data import Splits, pack_examples, tokenize_conversations
from hf_finetune.data.tokenization.batches import iterate_batches
from hf_finetune.data.tokenization.conversations import ConversationWork
from hf_finetune.data.tokenization.examples import ExampleBuilder
from hf_finetune.data.tokenization.rendered_rows import ConversationRenderer, RenderedRow
from hf_finetune.data.tokenization.text import IGNORE_INDEX
from hf_finetune.metric_info import say_count
from hf_finetune.preflight.findings import Place
from hf_finetune.preflight.token_view.pieces import Pieces, read_rendered
from hf_finetune.preflight.token_view.settings import TokenSettings
from hf_finetune.preflight.token_view.spans import TokenSpan, TokenView, cut_spans, make_spans

WHOLE = 2**31 - 1
"""Tokens, of which no row has more."""


class ConversationViewer:
    """Makes the views of some rows of a split, with the code that makes the examples of all."""

    def __init__(self, splits: Splits, split: str, settings: TokenSettings, numbers: Sequence[int]) -> None:
        self.splits, self.split, self.settings, self.numbers = splits, split, settings, numbers
        self.rows: Dataset = splits.rows[split].select(list(numbers))
        template, data, tokenizer = settings.get_template(self.rows), settings.data, settings.tokenizer
        self.renderer = ConversationRenderer(self._locate, len(self.rows), tokenizer, template or "", data)
        assert settings.limit is not None  # of conversations there is one
        self.limit = settings.limit
        # `cut` at a length that no row has gives each as it is, and so its tokens that are cut off or left out.
        self.whole = ExampleBuilder(tokenizer, "cut", WHOLE, self._locate, self.renderer.refuse)
        self.kept = ExampleBuilder(tokenizer, data.too_long, self.limit, self._locate, lambda *refused, **code: None)

    def _locate(self, number: int) -> tuple[str, int]:
        return self.splits.locate(self.split, self.numbers[number])

    def view(self) -> list[list[TokenView]]:
        """The views of each row: of one that is split, one for each part. Raises `DataError` as the recipe does."""
        work = ConversationWork(self.renderer, self.whole)
        views: dict[int, list[TokenView]] = {}
        for first, table in iterate_batches(self.rows, self.rows.column_names):
            for row, tokens in work.encode(work.read(first, table)):
                views[row.row] = self._view_row(row, tokens)
        if self.renderer.problems:
            raise self.renderer.describe_problems()
        return [views[number] for number in range(len(self.rows))]

    def _view_row(self, row: RenderedRow, tokens: TokenizedText) -> list[TokenView]:
        pieces = read_rendered(self.settings.tokenizer, tokens)
        size = len(pieces.ids)
        examples = iter(self.kept.build([(row, tokens)]).to_pylist())
        whole = self._label_whole(row, tokens)
        parts = []
        for start, stop, end in self._list_parts(size):
            # One without a trained token gives no example; nothing predicts the first token of one.
            trained = any(label != IGNORE_INDEX for label in whole[start + 1 : stop])
            parts.append(self._view_part(row.row, pieces, (start, end), next(examples) if trained else None))
        assert next(examples, None) is None, "an example of no part"
        return [self._name_part(part, number, len(parts)) for number, part in enumerate(parts)]

    def _list_parts(self, size: int) -> list[tuple[int, int, int]]:
        """The parts of a row of `size` tokens: where each begins, where what may be given of it ends, and it itself."""
        how, limit = self.settings.data.too_long, self.limit
        if size <= limit:
            return [(0, size, size)]
        if how == "split":
            return [(start, stop := min(start + limit, size), stop) for start in range(0, size, limit)]
        return [(0, limit if how == "cut" else 0, size)]

    def _label_whole(self, row: RenderedRow, tokens: TokenizedText) -> list[int]:
        """The labels of a row of any length; none is trained where there is no example."""
        built = self.whole.build([(row, tokens)]).to_pylist()
        return built[0]["labels"] if built else [IGNORE_INDEX] * len(tokens.ids)

    def _view_part(
        self, row: int, pieces: Pieces, window: tuple[int, int], example: dict[str, Any] | None
    ) -> TokenView:
        start, stop = window
        kept = 0 if example is None else len(example["input_ids"])
        place = Place(*self._locate(row))
        title = f"{place.path}:{place.line}"
        shown = slice(start, start + kept)
        labels = [] if example is None else example["labels"]
        unknown = self.settings.tokenizer.unk_token_id
        spans = make_spans(pieces.ids[shown], pieces.texts[shown], labels, pieces.control[shown], unknown)
        spans += cut_spans(pieces.ids[start + kept : stop], pieces.texts[start + kept : stop])
        return TokenView(title, tuple(spans), self.split, (place,), self._note(len(pieces.ids), kept))

    def _note(self, size: int, kept: int) -> tuple[str, ...]:
        how = f"train.max_length is {self.limit:,} (data.too_long: {self.settings.data.too_long})"
        if kept:
            return (f"of {say_count(size, 'token')}; {how}",) if size > self.limit else ()
        if size > self.limit and self.settings.data.too_long in ("drop", "error"):
            return (f"left out: {say_count(size, 'token')}, and {how}",)
        return ("left out: none of its tokens is trained",)

    def _name_part(self, part: TokenView, number: int, parts: int) -> TokenView:
        return part if parts == 1 else replace(part, title=f"{part.title}, part {number + 1} of {parts}")


def view_packed(splits: Splits, settings: TokenSettings, blocks: Dataset, number: int) -> TokenView:
    """View block `number` of the packed training rows, `blocks` of `pack_examples`."""
    block = blocks[number]
    # Each once, in their order: a row that is split may be in a block more than once.
    rows = list(dict.fromkeys(block["rows"]))
    views = ConversationViewer(splits, "train", settings, rows).view()
    waiting = dict(zip(rows, views, strict=True))
    spans: list[TokenSpan] = []
    start = 0
    for row, length in zip(block["rows"], block["seq_lengths"], strict=True):
        ids = block["input_ids"][start : start + length]
        start += length
        # Of a row that is split, the parts in a block may be any of them, in their order.
        part = next(view for view in waiting[row] if view.input_ids == ids)
        waiting[row].remove(part)
        spans += [TokenSpan(part.title, None, "border"), *part.spans]
    assert settings.limit is not None
    if start < settings.limit:
        pad = settings.tokenizer.pad_token_id
        spans.append(TokenSpan("", pad, "padding", count=settings.limit - start))
    places = tuple(Place(*splits.locate("train", row)) for row in rows)
    title = f"block {number + 1:,} of {len(blocks):,}"
    return TokenView(title, tuple(spans), "train", places)


def pack_training_rows(splits: Splits, settings: TokenSettings) -> Dataset:
    """The training rows of a run in blocks, from the cache where they are there. Raises `DataError`."""
    assert settings.limit is not None
    train = replace(splits, rows={"train": splits.rows["train"]})
    examples, facts = tokenize_conversations(
        train, settings.tokenizer, settings.template, settings.data, settings.limit
    )
    return pack_examples(examples, facts, settings.limit, packing=True)[0]["train"]
