"""Conversations -> token ids and labels; exactly the assistant's turns are trained."""

from __future__ import annotations

import logging
import time
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, fields, replace
from typing import Any

import pyarrow as pa
from datasets import Dataset, Features, List, Value
from transformers import PreTrainedTokenizerFast

from hf_finetune.chat.assistant_mask import (
    ChatTemplateError,
    RenderedChat,
    Span,
    TextLeftOut,
    check_all_said,
    check_said,
    find_assistant_spans,
    find_message_span,
    list_asks,
    render_chats,
)
from hf_finetune.chat.given_up import name_rows
from hf_finetune.chat.neutral import Fault, check_control_tokens
from hf_finetune.chat.rendering import Ask, Message, TemplateLimitError
from hf_finetune.chat.slow_templates import count_rendered
from hf_finetune.chat.special_tokens import MARK, ControlTokens, TokenizedText, get_control_tokens
from hf_finetune.chat.template import prepare_chat, template_name, writes_system
from hf_finetune.chat.thoughts import split_thoughts
from hf_finetune.config.sections import DataSection
from hf_finetune.data.cache import Batches, build_cached_dataset
from hf_finetune.data.reading.formats import restore_messages, restore_tools
from hf_finetune.data.splitting.splits import Splits
from hf_finetune.data.tokenization.conversation_stats import (
    ROWS_DECODED,
    ConversationStats,
    check_dropped_share,
    log_warnings,
)
from hf_finetune.data.tokenization.packing import pack_bfd
from hf_finetune.data.tokenization.spans import find_runs, find_token_ranges, invert_spans
from hf_finetune.data.tokenization.text import IGNORE_INDEX
from hf_finetune.data.tokenization.turns import build_exchange, select_trained
from hf_finetune.data.tokenization.windows import ROW_FEATURES
from hf_finetune.errors import MAX_PROBLEMS_SHOWN, DataError, Problem

logger = logging.getLogger(__name__)

ROWS_PER_BATCH = 1_000
ROWS_PER_EXCHANGE = 64
"""Conversations that are rendered at once: a template may write a million characters for each part of one."""
SECONDS_PER_EXCHANGE = 1.0
"""About, by which fewer of a slow template are: the third that exceeds a limit ends the run."""
MAX_ROWS_AT_FAULT = 3
"""Rows on which a template exceeds a limit: each takes a second or more."""

FEATURES = Features(
    {
        "input_ids": List(Value("int32")),
        "labels": List(Value("int32")),
        **ROW_FEATURES,
    }
)


@dataclass(frozen=True, slots=True)
class _PreparedChat:
    """A conversation that is to be rendered."""

    row: int
    chat: RenderedChat
    trained: list[bool]
    spelled: set[str]


@dataclass(frozen=True, slots=True)
class _RenderedRow:
    """A rendered conversation, and the (start, stop) characters that are trained."""

    row: int
    text: str
    spans: list[Span]
    spelled: set[str]


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
        build = _SplitTokenizer(splits, name, tokenizer, template, data, max_length)
        # tokenizer.json has the vocabulary and the added tokens, but not which of them are BOS, EOS and padding.
        made_from = {
            "rows": rows._fingerprint,
            "tokenizer": tokenizer.backend_tokenizer.to_str(),
            "special": tokenizer.special_tokens_map,
            "template": template if build.rendered else None,
            "settings": [data.loss_on, data.too_long, max_length, data.train_on_prefill],
        }
        examples[name], counted = build_cached_dataset("conversations", made_from, FEATURES, build.build_batches)
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


class _SplitTokenizer:
    """Tokenizes the rows of one split into examples, and counts them."""

    def __init__(
        self,
        splits: Splits,
        split: str,
        tokenizer: PreTrainedTokenizerFast,
        template: str,
        data: DataSection,
        max_length: int,
    ) -> None:
        self.rows = splits.rows[split]
        self.where: Callable[[int], tuple[str, int]] = lambda row: splits.locate(split, row)
        self.tokenizer, self.template, self.data, self.max_length = tokenizer, template, data, max_length
        self.control: ControlTokens = get_control_tokens(tokenizer)
        # Prompt and completion are trained as they stand, unless the run names a template for them.
        self.rendered = "messages" in self.rows.column_names or data.chat_template is not None
        if not self.rendered and (data.system is not None or data.chat_template_kwargs or data.fold_system):
            what = "rows of prompt and completion are trained as they stand, and no template writes it"
            remedy = "name the template in data.chat_template, or leave it out"
            other = "data.chat_template_kwargs" if data.chat_template_kwargs else "data.fold_system"
            key = "data.system" if data.system is not None else other
            raise DataError(Problem(what, remedy, key=key))
        self.counts: Counter[str] = Counter(rows=len(self.rows))
        self.spelled: Counter[str] = Counter()
        self.problems: list[Problem] = []
        self.problem_count = 0
        self.rows_at_fault, self.at_once = 0, 1

    def build_batches(self) -> Batches:
        """Yield record batches of examples, and return the counts. Raises `DataError` with all its problems."""
        done = 0
        for batch in self.rows.iter(batch_size=ROWS_PER_BATCH):
            size = len(next(iter(batch.values())))
            rows = [{name: values[number] for name, values in batch.items()} for number in range(size)]
            drafts = list(self._render_rows(list(enumerate(rows, done))))
            done += size
            examples = [] if self.problems else list(self._build_examples(drafts))
            columns = {name: [example[name] for example in examples] for name in FEATURES}
            yield pa.RecordBatch.from_pydict(columns, schema=FEATURES.arrow_schema)
        if self.problems:
            raise DataError(self.problems, total=self.problem_count)
        counted: dict[str, Any] = {name.name: self.counts[name.name] for name in fields(ConversationStats)}
        return counted | {"filled": 1.0, "spelled": dict(self.spelled.most_common())}

    def _refuse(self, row: int, what: str, remedy: str = "") -> None:
        """Record a problem of row `row`; only the first ones are kept, all are counted."""
        self.problem_count += 1
        if len(self.problems) < MAX_PROBLEMS_SHOWN:
            path, line = self.where(row)
            self.problems.append(Problem(what, remedy, path, line))

    def _render_rows(self, rows: Sequence[tuple[int, dict[str, Any]]]) -> Iterator[_RenderedRow]:
        if not self.rendered:
            yield from (self._render_plain(number, row["prompt"], row["completion"]) for number, row in rows)
            return
        while rows:
            began, some = time.monotonic(), rows[: self.at_once]
            rows = rows[self.at_once :]
            # Rows are few at first: of a template that exceeds its limits on each, 64 would take minutes.
            with count_rendered(some[0][0], len(self.rows), "conversations"):
                rendered = self._render_together(some)
            yield from rendered
            slow = time.monotonic() - began > SECONDS_PER_EXCHANGE
            self.at_once = max(1, self.at_once // 2) if slow else min(2 * self.at_once, ROWS_PER_EXCHANGE)

    def _render_together(self, rows: Sequence[tuple[int, dict[str, Any]]]) -> list[_RenderedRow]:
        prepared = [each for number, row in rows if (each := self._prepare_chat(number, row)) is not None]
        chats = [each.chat for each in prepared]
        render_chats(chats, [self._list_asks(each) for each in prepared])
        faults = check_control_tokens(chats)
        found = [self._render_chat(each, fault) for each, fault in zip(prepared, faults, strict=True)]
        return [each for each in found if each is not None]

    def _prepare_chat(self, number: int, row: dict[str, Any]) -> _PreparedChat | None:
        turns = row["messages"] if "messages" in row else build_exchange(row["prompt"], row["completion"])
        tools = restore_tools(row.get("tools"))
        try:
            messages = split_thoughts(self.tokenizer, self.template, restore_messages(turns))
            trained = select_trained(turns, self.data.loss_on)
            chat = prepare_chat(self.tokenizer, self.template, messages, tools)
        except ChatTemplateError as problem:
            self._refuse_chat(number, problem, turns)
            return None
        except TemplateLimitError as problem:
            self._refuse_limit(number, problem)
            return None
        return _PreparedChat(number, chat, trained, self.control.find_spelled([messages, tools]))

    def _list_asks(self, prepared: _PreparedChat) -> list[Ask]:
        if self.data.loss_on != "all":
            return list_asks(prepared.chat, prepared.trained)
        left_out = [index for index, train in enumerate(prepared.trained) if not train]
        asks = [Ask(count) for index in left_out for count in (index, index + 1) if count]
        return [Ask(len(prepared.chat.messages)), *asks]

    def _render_chat(self, prepared: _PreparedChat, fault: Fault | None) -> _RenderedRow | None:
        """Return a conversation with what is trained of it, or refuse it."""
        chat = prepared.chat
        try:
            if fault is not None:
                raise fault
            spans = self._find_spans(chat, prepared.trained)
        except ChatTemplateError as problem:
            self._refuse_chat(prepared.row, problem, chat.messages)
            return None
        except TemplateLimitError as problem:
            self._refuse_limit(prepared.row, problem)
            return None
        return _RenderedRow(prepared.row, chat.text(), spans, prepared.spelled)

    def _refuse_limit(self, number: int, problem: TemplateLimitError) -> None:
        self._refuse(number, f"the chat template {problem.what} on this row", problem.remedy)
        self.rows_at_fault += 1
        if self.rows_at_fault == MAX_ROWS_AT_FAULT:
            raise DataError(self.problems, total=self.problem_count) from problem

    def _refuse_chat(self, number: int, problem: ChatTemplateError, messages: Sequence[Message]) -> None:
        roles = ", ".join(message["role"] for message in messages)
        self._refuse(number, f"{problem} (roles: {roles})", self._remedy(problem, roles))

    def _remedy(self, problem: ChatTemplateError, roles: str) -> str:
        if not isinstance(problem, TextLeftOut):
            told = roles.startswith(("system, user", "developer, user"))
            if told and not self.data.fold_system and not writes_system(self.tokenizer, self.template):
                return "set data.fold_system: true, which writes a system message into the first question"
            return "change the row, or name another data.chat_template"
        name = template_name(self.data, self.template)
        return f"mend {name} (a message's text is `content`, a string), or name another data.chat_template"

    def _render_plain(self, number: int, prompt: str, completion: str) -> _RenderedRow:
        tokenizer = self.tokenizer
        # With one token for both (GPT-2), every row would begin with the token that ends a text.
        begin = str(tokenizer.bos_token) if tokenizer.bos_token_id not in (None, tokenizer.eos_token_id) else ""
        # [bos] prompt completion eos: no template, and no separator.
        before = begin + self.control.mark(prompt)
        text = before + self.control.mark(completion) + str(tokenizer.eos_token)
        start = 0 if self.data.loss_on == "all" else len(before)
        return _RenderedRow(number, text, [(start, len(text))], self.control.find_spelled([prompt, completion]))

    def _find_spans(self, chat: RenderedChat, trained: Sequence[bool]) -> list[Span]:
        """Find what is trained of a conversation, whose text holds what is said: (start, stop) characters."""
        if self.data.loss_on == "all":
            left_out = [find_message_span(chat, index) for index, train in enumerate(trained) if not train]
            # Headers, user turns and tools are trained too; only messages with `train: false` are left out.
            spans = invert_spans(left_out, len(chat.text()))
            check_all_said(chat, trained)
        else:
            spans = find_assistant_spans(chat, trained, prefill=self.data.train_on_prefill)
            check_said(chat, trained, spans)
        return spans

    def _build_examples(self, drafts: Sequence[_RenderedRow]) -> Iterator[dict[str, Any]]:
        bounds = [sorted({position for span in draft.spans for position in span}) for draft in drafts]
        with name_rows(lambda number: self.where(drafts[number].row)):
            encoded = self.control.encode([draft.text for draft in drafts], bounds)
        for draft, tokens in zip(drafts, encoded, strict=True):
            ranges = find_token_ranges(draft.spans, tokens)
            self.spelled.update(draft.spelled)
            if draft.row < ROWS_DECODED:
                self.counts["altered"] += not self._decodes(draft, tokens, ranges)
            labels = [IGNORE_INDEX] * len(tokens.ids)  # (tokens,)
            for start, stop in ranges:
                labels[start:stop] = tokens.ids[start:stop]
            yield from self._fit_length(draft.row, tokens, labels, {stop for _, stop in ranges})

    def _decodes(self, draft: _RenderedRow, tokens: TokenizedText, ranges: Sequence[Span]) -> bool:
        """Whether the trained tokens say what the text says, white space aside."""
        decode = self.tokenizer.backend_tokenizer.decode
        spans = zip(draft.spans, ranges, strict=True)
        return all(
            _strip_whitespace(draft.text[slice(*span)].replace(MARK, ""))
            in _strip_whitespace(decode(tokens.ids[slice(*tokens_of_it)], skip_special_tokens=False))
            for span, tokens_of_it in spans
        )

    def _fit_length(
        self, row: int, tokens: TokenizedText, labels: list[int], ends: set[int]
    ) -> Iterator[dict[str, Any]]:
        """Yield a row as one example, or as `data.too_long` says.

        `labels`: (tokens,); `ends`: the positions behind trained turns.
        """
        # 5 tokens with max_length 2 give the windows (0, 2) under `cut`, and (0, 2) (2, 4) (4, 5) under `split`.
        size, limit = len(labels), self.max_length
        windows = [(0, size)]
        if size > limit:
            self.counts["too_long"] += 1
            if self.data.too_long == "error":
                self._refuse(row, f"{size:,} tokens, and train.max_length is {limit:,}", "shorten it, or raise that")
            if self.data.too_long in ("drop", "error"):
                self.counts["dropped"] += 1
                return
            stop = limit if self.data.too_long == "cut" else size
            windows = [(start, min(start + limit, size)) for start in range(0, stop, limit)]
            self.counts["truncated"] += 1
        trained = [(start, stop) for start, stop in windows if self._has_target(labels[start:stop])]
        if not trained:
            self.counts["untrained"] += 1
            self.counts["dropped"] += 1
        for start, stop in trained:
            yield self._build_example(row, tokens, labels, start, stop)
            cut = self.data.too_long == "cut" and stop < size
            self.counts["without_end"] += cut and labels[stop - 1] != IGNORE_INDEX and stop not in ends

    @staticmethod
    def _has_target(labels: Sequence[int]) -> bool:
        return any(label != IGNORE_INDEX for label in labels[1:])  # nothing predicts the first token

    def _build_example(
        self, row: int, tokens: TokenizedText, labels: list[int], start: int, stop: int
    ) -> dict[str, Any]:
        """Count the example of the tokens from `start` to `stop`, and return its columns; `labels`: (tokens,)."""
        ids, size = tokens.ids[start:stop], stop - start
        predicted = [number for number in range(start + 1, stop) if labels[number] != IGNORE_INDEX]
        said = [tokens.read_text(*run) for run in find_runs(predicted)]
        in_bytes, words = sum(len(text.encode()) for text in said), sum(len(text.split()) for text in said)
        self.counts["examples"] += 1
        self.counts["tokens"] += size
        self.counts["trained_tokens"] += len(predicted)
        self.counts["trained_bytes"] += in_bytes
        self.counts["unknown"] += self._count_unknown(tokens, predicted)
        self.counts["longest"] = max(self.counts["longest"], size)
        columns = {"input_ids": ids, "labels": labels[start:stop], "length": size, "row": row}
        return {**columns, "bytes": in_bytes, "words": words}

    def _count_unknown(self, tokens: TokenizedText, predicted: Sequence[int]) -> int:
        """Count the unknown tokens among those numbered `predicted`: text alone, where one id is EOS too."""
        unknown = self.tokenizer.unk_token_id
        if unknown is None:
            return 0
        return sum(tokens.ids[number] == unknown and not tokens.is_control(number) for number in predicted)


def _strip_whitespace(text: str) -> str:
    return "".join(text.split())
