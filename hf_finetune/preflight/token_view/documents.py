"""Documents, token by token: in blocks to train on, and in windows to evaluate."""

from __future__ import annotations

from dataclasses import replace

from datasets import Dataset

from hf_finetune.data import Splits, pack_splits
from hf_finetune.preflight.findings import Place
from hf_finetune.preflight.token_view.pieces import read_ids
from hf_finetune.preflight.token_view.settings import TokenSettings
from hf_finetune.preflight.token_view.spans import TokenSpan, TokenView, make_spans


def pack_documents(splits: Splits, settings: TokenSettings, split: str) -> Dataset:
    """The blocks of the training documents, or the windows of another split; from the cache where they are there."""
    assert settings.limit is not None
    tokens, _ = pack_splits(
        {split: splits.rows[split]},
        settings.tokenizer,
        settings.limit,
        isolate=settings.data.isolate_documents,
        locate=splits.locate,
        num_proc=settings.data.num_proc,
    )
    return tokens[split]


def view_block(splits: Splits, settings: TokenSettings, blocks: Dataset, number: int) -> TokenView:
    """View block `number` of the training documents: borders stand where a document begins or goes on.

    A block begins with the last token of the one before, which predicts its second.
    """
    block = blocks[number]
    # Of the blocks [a b c] and [c d e], b stands before the second, as both have c.
    before = blocks[number - 1]["input_ids"][-2:-1] if number else [settings.tokenizer.eos_token_id]
    ids, end = block["input_ids"], settings.tokenizer.eos_token_id
    # EOS ends documents alone: where a text spells it, it is tokenized as text.
    begins = [index == end for index in [*before, *ids[:-1]]]
    places = [Place(*splits.locate("train", row)) for row in block["rows"]]
    borders = [f"{place.path}:{place.line}" for place in places]
    if not begins[0]:
        begins[0], borders[0] = True, f"{borders[0]}, goes on"
    pieces, waiting = read_ids(settings.tokenizer, ids), iter(borders)
    spans: list[TokenSpan] = []
    made = make_spans(ids, pieces.texts, block["labels"], pieces.control, settings.tokenizer.unk_token_id)
    for span, begin in zip(made, begins, strict=True):
        spans += [TokenSpan(next(waiting), None, "border"), span] if begin else [span]
    assert settings.limit is not None
    if len(ids) < settings.limit:
        pad = settings.tokenizer.pad_token_id
        spans.append(TokenSpan("", pad, "padding", count=settings.limit - len(ids)))
    return TokenView(f"block {number + 1:,} of {len(blocks):,}", tuple(spans), "train", tuple(places))


def view_window(splits: Splits, settings: TokenSettings, windows: Dataset, number: int, split: str) -> TokenView:
    """View window `number` of the documents of a split that is evaluated, each of them by itself."""
    window = windows[number]
    place = Place(*splits.locate(split, window["row"]))
    pieces, unknown = read_ids(settings.tokenizer, window["input_ids"]), settings.tokenizer.unk_token_id
    spans = make_spans(pieces.ids, pieces.texts, window["labels"], pieces.control, unknown)
    title = f"{place.path}:{place.line}, window {number + 1:,} of {len(windows):,}"
    return TokenView(title, tuple(spans), split, (place,))


def join_notes(view: TokenView, *notes: str) -> TokenView:
    """The same view, of which these are said as well."""
    return replace(view, notes=(*view.notes, *notes))
