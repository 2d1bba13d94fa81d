"""Conversations -> token ids and labels; exactly the assistant's turns are trained."""

from __future__ import annotations

import logging
from collections import Counter
from collections.abc import Callable
from dataclasses import replace
from functools import partial
from typing import Any

import numpy as np
import pyarrow as pa
from datasets import Dataset, Features, List, Value
from datasets.table import InMemoryTable
from transformers import PreTrainedTokenizerFast

from hf_finetune.config.sections import DataSection
from hf_finetune.data.cache import Batches, build_cached_dataset
from hf_finetune.data.splitting.splits import Splits
from hf_finetune.data.streaming.chunks import Chunk
from hf_finetune.data.streaming.facts import StreamFacts
from hf_finetune.data.streaming.position import Carried
from hf_finetune.data.tokenization.batches import iterate_batches
from hf_finetune.data.tokenization.conversation_stats import ConversationStats, check_dropped_share, log_warnings
from hf_finetune.data.tokenization.examples import Counted, ExampleBuilder
from hf_finetune.data.tokenization.packing import FEATURES as PACKED
from hf_finetune.data.tokenization.packing import build_bins, pack_bfd
from hf_finetune.data.tokenization.rendered_rows import (
    ConversationRenderer,
    Refused,
    RenderedRow,
    read_turns,
    write_plain,
)
from hf_finetune.data.tokenization.windows import FEATURES
from hf_finetune.data.workers import count_processes, map_rows
from hf_finetune.errors import DataError, Problem
from hf_finetune.metric_info import say_count

logger = logging.getLogger(__name__)

BYTES_PER_TOKEN = 4
"""Of text, about."""
ROWS_JUDGED = 1_000
"""Of a stream, before the share of those that are left out is judged."""
# The columns of a part: the id of a row is that of its shard and line.
PARTS = Features({name: FEATURES[name] for name in ("input_ids", "labels", "length")} | {"row": Value("int64")})
PACKED_PARTS = Features(PACKED | {"rows": List(Value("int64"))})


def tokenize_conversations(
    splits: Splits, tokenizer: PreTrainedTokenizerFast, template: str, data: DataSection, max_length: int
) -> tuple[dict[str, Dataset], dict[str, ConversationStats | StreamFacts]]:
    """Tokenize each split under `template`, and log its counts in one line.

    Columns: `input_ids` and `labels` (tokens,), -100 where nothing is trained; `length`, at most `max_length`; `row`,
    the number of the row in its split; `bytes` and `words` of the text that is trained. Raises `DataError` naming each
    conversation that the template refuses, cannot mask or leaves text out of, or where more than the share
    `data.max_dropped` of rows is too long or has no trained token.
    """
    examples: dict[str, Dataset] = {}
    facts: dict[str, ConversationStats | StreamFacts] = {}
    _warn_of_no_template(splits, data)
    if splits.stream is not None:
        rendered = splits.stream.reading.decoder.row_format.becomes == "conversation" or data.chat_template is not None
        if not rendered:
            _refuse_unwritten(data)
        settings = (tokenizer, template if rendered else None, data, max_length)
        maker = ConversationMaker(*settings, packing=splits.stream.plan.packing)
        examples["train"], facts["train"] = splits.stream.open(maker, max_length)
    for name, rows in splits.rows.items():
        # Prompt and completion are trained as they stand, unless the run names a template for them.
        rendered = "messages" in rows.column_names or data.chat_template is not None
        if not rendered:
            _refuse_unwritten(data)
        written = template if rendered else None
        made_from = {"rows": rows._fingerprint} | _describe(tokenizer, written, data, max_length)
        where = partial(splits.locate, name)
        build = partial(_build_batches, rows, where, tokenizer, written, data, max_length)
        examples[name], counted = build_cached_dataset("conversations", made_from, FEATURES, build)
        facts[name] = found = ConversationStats(**counted)
        logger.info("%s: %s", name, found.describe(name))
        check_dropped_share(name, found, data, max_length)
        log_warnings(name, found)
    return examples, facts


def _describe(
    tokenizer: PreTrainedTokenizerFast, template: str | None, data: DataSection, max_length: int
) -> dict[str, Any]:
    """What decides the examples of rows, JSON-ready."""
    # tokenizer.json has the vocabulary and the added tokens, but not which of them are BOS, EOS and padding.
    return {
        "tokenizer": tokenizer.backend_tokenizer.to_str(),
        "special": tokenizer.special_tokens_map,
        "template": template,
        "settings": [data.loss_on, data.too_long, max_length, data.train_on_prefill],
    }


def _warn_of_no_template(splits: Splits, data: DataSection) -> None:
    """Warn that prompts and completions are not read as `generate` and `chat` will ask."""
    if splits.format != "prompt_completion" or data.chat_template is not None:
        return
    columns = (data.columns.get(field, field) for field in ("prompt", "completion"))
    logger.warning(
        "prompts and completions are taken as they stand, without the chat template that generate and chat ask by; "
        "data.columns={question: %s, answer: %s} puts them under it",
        *columns,
        extra={"code": "HF149"},
    )


def pack_examples(
    examples: dict[str, Dataset], facts: dict[str, ConversationStats | StreamFacts], block_size: int, *, packing: bool
) -> tuple[dict[str, Dataset], dict[str, ConversationStats | StreamFacts]]:
    """With `packing`, pack the training rows into blocks of at most `block_size` tokens (`pack_bfd`); log their fill.

    The columns of blocks are `input_ids` and `labels` (tokens,), and `seq_lengths` (examples,). What is evaluated stays
    in rows, whose figures and intervals are then those of `score`. A stream is packed where it is tokenized.
    """
    counted = facts["train"]
    if not packing or isinstance(counted, StreamFacts):
        return examples, facts
    blocks, share = pack_bfd(examples["train"], block_size)
    logger.info("train: packed into %s, %.1f%% full", say_count(len(blocks), "block"), 100 * share)
    packed = replace(counted, filled=share, longest=block_size)
    return examples | {"train": blocks}, facts | {"train": packed}


def _refuse_unwritten(data: DataSection) -> None:
    """Raise `DataError` for settings of a template where there is none."""
    if data.system is None and not data.chat_template_kwargs and not data.fold_system:
        return
    what = "rows of prompt and completion are trained as they stand, and no template writes it"
    remedy = "name the template in data.chat_template, or leave it out"
    other = "data.chat_template_kwargs" if data.chat_template_kwargs else "data.fold_system"
    raise DataError(Problem(what, remedy, key="data.system" if data.system is not None else other, code="HF133"))


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
    work = ConversationWork(renderer, ExampleBuilder(tokenizer, data.too_long, max_length, where, renderer.refuse))
    try:
        batches = iterate_batches(rows, rows.column_names)
        yield from map_rows(work, batches, count_processes(data.num_proc), len(rows))
    except DataError as stopped:
        if not renderer.gave_up:
            raise
        raise renderer.describe_problems() from stopped  # with those that other processes have found
    if renderer.problems:
        raise renderer.describe_problems()
    return work.builder.count(len(rows))


class ConversationWork:
    """Conversations -> record batches of examples, counted; `workers.RowWork`."""

    def __init__(self, renderer: ConversationRenderer, builder: ExampleBuilder) -> None:
        self.renderer, self.builder = renderer, builder
        self.encode, self.build = builder.encode, builder.build

    def read(self, first: int, table: pa.Table) -> list[RenderedRow]:
        """Render rows, the first of which is number `first`; nothing once one is refused."""
        renderer, loss_on = self.renderer, self.renderer.data.loss_on
        if renderer.gave_up:  # each further row would take its second
            raise renderer.describe_problems()
        if not renderer.template:
            return write_plain(renderer.tokenizer, first, table, loss_on)
        rendered = renderer.render([row for row in read_turns(first, table) if self.builder.may_fit(row, loss_on)])
        return [] if renderer.problems else rendered

    def collect(self) -> tuple[Counted, Refused]:
        """The counts of examples, and the problems of rows."""
        return self.builder.collect(), self.renderer.collect()

    def merge(self, collected: tuple[Counted, Refused]) -> None:
        """Add those of another process."""
        counted, refused = collected
        self.builder.merge(counted)
        self.renderer.merge(refused)


class ConversationMaker:
    """Makes the examples of a stream, as `tokenize_conversations` does; `streaming.examples.ExampleMaker`.

    With `packing` the examples of each chunk are packed by themselves: they follow from the chunk alone.
    """

    def __init__(
        self,
        tokenizer: PreTrainedTokenizerFast,
        template: str | None,
        data: DataSection,
        max_length: int,
        *,
        packing: bool,
    ) -> None:
        self.tokenizer, self.template, self.data = tokenizer, template, data
        self.max_length, self.packing = max_length, packing
        self.features = PACKED_PARTS if packing else PARTS
        self.made_from = _describe(tokenizer, template, data, max_length) | {"packing": packing}
        self.warned = False
        self.bytes_per_example = BYTES_PER_TOKEN * max_length if packing else 0

    def begin(self, locate: Callable[[int], tuple[str, int]]) -> PartOfConversations:
        """The maker of a part."""
        return PartOfConversations(self, locate)


class PartOfConversations:
    """Makes the examples of one part; its rows are counted from 0."""

    def __init__(self, settings: ConversationMaker, locate: Callable[[int], tuple[str, int]]) -> None:
        self.settings, self._locate = settings, locate
        self._count, self._ids = 0, np.empty(0, np.int64)
        tokenizer, data = settings.tokenizer, settings.data
        # One for all chunks: what it has learned of the shapes of a template holds for the next ones, too.
        self.renderer = ConversationRenderer(self._where, 0, tokenizer, settings.template or "", data)
        self.builder = ExampleBuilder(tokenizer, data.too_long, settings.max_length, self._where, self.renderer.refuse)

    def _where(self, row: int) -> tuple[str, int]:
        return self._locate(int(self._ids[row - self._count]))

    def make(self, chunk: Chunk, carried: Carried) -> tuple[pa.RecordBatch, Carried, Counter[str]]:
        """The examples of a chunk, and counts of them; nothing is carried from one chunk to the next."""
        before, self._ids, self.renderer.total = Counter(self.builder.counts), chunk.ids, self._count + len(chunk.ids)
        rows = iterate_batches(chunk.rows, chunk.rows.column_names)
        work = ConversationWork(self.renderer, self.builder)
        batches = list(map_rows(work, ((self._count + first, table) for first, table in rows)))
        if self.renderer.problems:
            raise self.renderer.describe_problems()
        table = pa.Table.from_batches(batches, FEATURES.arrow_schema).combine_chunks()
        numbers = chunk.ids[table.column("row").to_numpy() - self._count]
        self._count += len(chunk.ids)
        counts = Counter({name: many - before[name] for name, many in self.builder.counts.items() if name != "longest"})
        columns = {name: table.column(name) for name in PARTS if name != "row"} | {"row": pa.array(numbers)}
        examples = pa.table(columns, schema=PARTS.arrow_schema)
        # By themselves: of some thousand bins the last ones are not full, and the next part may begin behind any.
        if self.settings.packing and len(examples):
            rows = Dataset(InMemoryTable(examples), fingerprint="chunk")
            bins = build_bins(rows, self.settings.max_length, PACKED_PARTS)
            examples = pa.Table.from_batches(list(bins)).combine_chunks()
        empty = pa.RecordBatch.from_pylist([], self.settings.features.arrow_schema)
        return (examples.to_batches() or [empty])[0], carried, counts

    def check(self, counts: Counter[str]) -> None:
        """Raise `DataError` where more than `data.max_dropped` of the rows so far are left out; say what is odd."""
        settings = self.settings
        found = ConversationStats(**self.builder.count(self._count))
        if counts["rows"] >= ROWS_JUDGED:
            rows, dropped, untrained = (counts[name] for name in ("rows", "dropped", "untrained"))
            so_far = replace(found, rows=rows, dropped=dropped, untrained=untrained)
            check_dropped_share("train", so_far, settings.data, settings.max_length)
        if not settings.warned:  # once, and not for every part
            settings.warned = True
            log_warnings("train", found)
