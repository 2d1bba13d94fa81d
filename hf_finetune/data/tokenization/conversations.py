"""Conversations -> token ids and labels; exactly the assistant's turns are trained."""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterator
from dataclasses import replace
from functools import partial

from datasets import Dataset
from transformers import PreTrainedTokenizerFast

from hf_finetune.config.sections import DataSection
from hf_finetune.data.cache import Batches, build_cached_dataset
from hf_finetune.data.splitting.splits import Splits
from hf_finetune.data.tokenization.batches import iterate_batches, map_ahead
from hf_finetune.data.tokenization.conversation_stats import ConversationStats, check_dropped_share, log_warnings
from hf_finetune.data.tokenization.examples import FEATURES, ExampleBuilder
from hf_finetune.data.tokenization.packing import pack_bfd
from hf_finetune.data.tokenization.rendered_rows import ConversationRenderer, RenderedRow, read_turns, write_plain
from hf_finetune.errors import DataError, Problem

logger = logging.getLogger(__name__)


def tokenize_conversations(
    splits: Splits, tokenizer: PreTrainedTokenizerFast, template: str, data: DataSection, max_length: int
) -> tuple[dict[str, Dataset], dict[str, ConversationStats]]:
    """Tokenize each split under `template`, and log its counts in one line.

    Columns: `input_ids` and `labels` (tokens,), -100 where nothing is trained; `length`, at most `max_length`; `row`,
    the number of the row in its split; `bytes` and `words` of the text that is trained. Raises `DataError` naming each
    conversation that the template refuses, cannot mask or leaves text out of, or where more than the share
    `data.max_dropped` of rows is too long or has no trained token.
    """
    examples, facts = {}, {}
    _warn_of_no_template(splits, data)
    for name, rows in splits.rows.items():
        # Prompt and completion are trained as they stand, unless the run names a template for them.
        rendered = "messages" in rows.column_names or data.chat_template is not None
        if not rendered:
            _refuse_unwritten(data)
        written = template if rendered else None
        # tokenizer.json has the vocabulary and the added tokens, but not which of them are BOS, EOS and padding.
        made_from = {
            "rows": rows._fingerprint,
            "tokenizer": tokenizer.backend_tokenizer.to_str(),
            "special": tokenizer.special_tokens_map,
            "template": written,
            "settings": [data.loss_on, data.too_long, max_length, data.train_on_prefill],
        }
        where = partial(splits.locate, name)
        build = partial(_build_batches, rows, where, tokenizer, written, data, max_length)
        examples[name], counted = build_cached_dataset("conversations", made_from, FEATURES, build)
        facts[name] = ConversationStats(**counted)
        logger.info("%s: %s", name, facts[name].describe(name))
        check_dropped_share(name, facts[name], data, max_length)
        log_warnings(name, facts[name])
    return examples, facts


def _warn_of_no_template(splits: Splits, data: DataSection) -> None:
    """Warn that prompts and completions are not read as `generate` and `chat` will ask."""
    if splits.format != "prompt_completion" or data.chat_template is not None:
        return
    columns = (data.columns.get(field, field) for field in ("prompt", "completion"))
    logger.warning(
        "prompts and completions are taken as they stand, without the chat template that generate and chat ask by; "
        "data.columns={question: %s, answer: %s} puts them under it",
        *columns,
    )


def pack_examples(
    examples: dict[str, Dataset], facts: dict[str, ConversationStats], block_size: int, *, packing: bool
) -> tuple[dict[str, Dataset], dict[str, ConversationStats]]:
    """With `packing`, pack the training rows into blocks of at most `block_size` tokens (`pack_bfd`); log their fill.

    The columns of blocks are `input_ids` and `labels` (tokens,), and `seq_lengths` (examples,). What is evaluated stays
    in rows, whose figures and intervals are then those of `score`.
    """
    if not packing:
        return examples, facts
    blocks, share = pack_bfd(examples["train"], block_size)
    logger.info("train: packed into %s blocks, %.1f%% full", f"{len(blocks):,}", 100 * share)
    packed = replace(facts["train"], filled=share, longest=block_size)
    return examples | {"train": blocks}, facts | {"train": packed}


def _refuse_unwritten(data: DataSection) -> None:
    """Raise `DataError` for settings of a template where there is none."""
    if data.system is None and not data.chat_template_kwargs and not data.fold_system:
        return
    what = "rows of prompt and completion are trained as they stand, and no template writes it"
    remedy = "name the template in data.chat_template, or leave it out"
    other = "data.chat_template_kwargs" if data.chat_template_kwargs else "data.fold_system"
    raise DataError(Problem(what, remedy, key="data.system" if data.system is not None else other))


def _build_batches(
    rows: Dataset,
    where: Callable[[int], tuple[str, int]],
    tokenizer: PreTrainedTokenizerFast,
    template: str | None,
    data: DataSection,
    max_length: int,
) -> Batches:
    """Yield record batches of examples, and return their counts; without a `template`, of prompts and completions.

    Raises `DataError` with all problems.
    """
    renderer = ConversationRenderer(where, len(rows), tokenizer, template or "", data)
    builder = ExampleBuilder(tokenizer, data.too_long, max_length, where, renderer.refuse)

    def render() -> Iterator[list[RenderedRow]]:
        for first, table in iterate_batches(rows, rows.column_names):
            if template is None:
                yield write_plain(tokenizer, first, table, data.loss_on)
            else:
                rendered = renderer.render(
                    [row for row in read_turns(first, table) if builder.may_fit(row, data.loss_on)]
                )
                yield [] if renderer.problems else rendered

    for encoded in map_ahead(builder.encode, render()):
        yield builder.build(encoded)
    if renderer.problems:
        raise renderer.describe_problems()
    return builder.count(len(rows))
