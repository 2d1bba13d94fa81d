"""Rows of conversations -> their text under a template, and what of it is trained; or how they are refused."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from itertools import pairwise
from typing import Any

import pyarrow as pa
import pyarrow.compute as pc
from transformers import PreTrainedTokenizerFast

from hf_finetune.chat.assistant_mask import (
    ASKING_ROLES,
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
from hf_finetune.chat.neutral import Fault, check_control_tokens
from hf_finetune.chat.rendering import Ask, Message, TemplateLimitError
from hf_finetune.chat.shapes.assembly import Shapes
from hf_finetune.chat.slow_templates import count_rendered
from hf_finetune.chat.special_tokens import ControlTokens, get_control_tokens
from hf_finetune.chat.template import prepare_chat, template_name, writes_system
from hf_finetune.chat.thoughts import split_thoughts
from hf_finetune.chat.worker import count_characters
from hf_finetune.config.sections import DataSection
from hf_finetune.data.reading.formats import restore_messages, restore_tools
from hf_finetune.data.tokenization.spans import invert_spans
from hf_finetune.data.tokenization.turns import build_exchange, select_trained
from hf_finetune.errors import MAX_PROBLEMS_SHOWN, DataError, Problem

ROWS_PER_EXCHANGE = 64
"""Conversations that are rendered at once: a template may write a million characters for each part of one."""
SECONDS_PER_EXCHANGE = 1.0
"""About, by which fewer of a slow template are: the third that exceeds a limit ends the run."""
MAX_ROWS_AT_FAULT = 3
"""Rows on which a template exceeds a limit: each takes a second or more."""

MAX_CHARACTERS_AHEAD = 2**24
"""Of the renders of one conversation that are asked for at once; a longer one is rendered turn by turn."""

CONVERSATIONS = "conversations"

Turns = list[dict[str, Any]]
"""The messages of a row, as the reader has them."""
RowOfTurns = tuple[int, Turns, str | None]
"""The number of a row, its messages, and its tools as JSON."""
Refused = tuple[list[tuple[int, Problem]], int, list[int]]
"""The problems of rows that are shown, how many there are, and the rows that exceeded a limit."""


@dataclass(frozen=True, slots=True)
class _PreparedChat:
    """A conversation that is to be rendered."""

    row: int
    chat: RenderedChat
    trained: list[bool]
    spelled: set[str]


@dataclass(frozen=True, slots=True)
class RenderedRow:
    """A rendered conversation, and the (start, stop) characters that are trained."""

    row: int
    text: str
    spans: list[Span]
    spelled: set[str]


def read_turns(first: int, table: pa.Table) -> Iterator[RowOfTurns]:
    """Yield the rows of a table, of which the first is number `first`."""
    if "messages" not in table.column_names:
        pairs = zip(table.column("prompt").to_pylist(), table.column("completion").to_pylist(), strict=True)
        yield from ((number, build_exchange(*pair), None) for number, pair in enumerate(pairs, first))
        return
    # Column by column: pyarrow takes ten times as long to make a dictionary of each message.
    column = table.column("messages").combine_chunks()
    turns = column.flatten()
    names = [field.name for field in turns.type]
    values = zip(*(each.to_pylist() for each in turns.flatten()), strict=True)
    every = [dict(zip(names, each, strict=True)) for each in values]
    ends = pc.cumulative_sum(pc.list_value_length(column)).to_pylist()
    rows = zip(pairwise([0, *ends]), table.column("tools").to_pylist(), strict=True)
    for number, ((start, stop), tools) in enumerate(rows, first):
        yield number, every[start:stop], tools


def count_bytes_written(turns: Turns, loss_on: str) -> int:
    """Count the bytes of text that a template must write: what is asked, and the answers that are trained."""
    try:
        trained = select_trained(turns, loss_on)
    except ChatTemplateError:  # said where the row is rendered
        return 0
    written = [
        turn["content"].strip()
        for turn, train in zip(turns, trained, strict=True)
        if isinstance(turn["content"], str)
        and (turn["role"] in ASKING_ROLES or (train and turn["role"] == "assistant"))
    ]
    # Thoughts of earlier turns may be left out.
    return sum(len(text.encode()) for text in written if "</think>" not in text)


class ConversationRenderer:
    """Renders the rows of a split, and keeps the problems of those that it refuses."""

    def __init__(
        self,
        where: Callable[[int], tuple[str, int]],
        total: int,
        tokenizer: PreTrainedTokenizerFast,
        template: str,
        data: DataSection,
    ) -> None:
        self.where, self.total = where, total
        self.tokenizer, self.template, self.data = tokenizer, template, data
        self.control: ControlTokens = get_control_tokens(tokenizer)
        self.problems: list[tuple[int, Problem]] = []
        self.problem_count = 0
        self.rows_at_fault: list[int] = []
        self.at_once = 1
        self.shapes = Shapes(tokenizer, template, self._find_spans, by_turns=data.loss_on != "all")

    def refuse(self, row: int, what: str, remedy: str = "", *, code: str) -> None:
        """Record a problem of row `row`; only the first ones are kept, all are counted."""
        self.problem_count += 1
        if len(self.problems) < MAX_PROBLEMS_SHOWN:
            path, line = self.where(row)
            self.problems.append((row, Problem(what, remedy, path, line, code=code)))

    @property
    def gave_up(self) -> bool:
        """Whether the template exceeds its limits on too many rows to go on."""
        return len(self.rows_at_fault) >= MAX_ROWS_AT_FAULT

    def collect(self) -> Refused:
        """What was refused so far."""
        return self.problems, self.problem_count, self.rows_at_fault

    def merge(self, refused: Refused) -> None:
        """Add what another renderer has refused of other rows."""
        problems, count, at_fault = refused
        self.problems = sorted([*self.problems, *problems], key=_by_row)[:MAX_PROBLEMS_SHOWN]
        self.problem_count += count
        self.rows_at_fault += at_fault

    def describe_problems(self) -> DataError:
        """All problems so far, by their rows; where the template was given up, those until it was."""
        ordered, total = sorted(self.problems, key=_by_row), self.problem_count
        if self.gave_up:  # of several processes each goes on until it has so many
            last = sorted(self.rows_at_fault)[MAX_ROWS_AT_FAULT - 1]
            ordered = [(row, problem) for row, problem in ordered if row <= last]
            total = len(ordered)
        return DataError([problem for _, problem in ordered], total=total)

    def render(self, rows: Sequence[RowOfTurns]) -> list[RenderedRow]:
        """Render rows; without those that are refused."""
        done: dict[int, RenderedRow | None] = {}
        for row in rows:
            with count_rendered(row[0], self.total, CONVERSATIONS):
                done[row[0]] = self._assemble(row)
        # A few rows say what could be taken for something else; these the template writes itself.
        rest = [row for row in rows if done[row[0]] is None]
        while rest:
            began, some = time.monotonic(), rest[: self.at_once]
            rest = rest[self.at_once :]
            # Rows are few at first: of a template that exceeds its limits on each, 64 would take minutes.
            with count_rendered(some[0][0], self.total, CONVERSATIONS):
                done |= {each.row: each for each in self._render_together(some)}
            slow = time.monotonic() - began > SECONDS_PER_EXCHANGE
            self.at_once = max(1, self.at_once // 2) if slow else min(2 * self.at_once, ROWS_PER_EXCHANGE)
        return [each for each in done.values() if each is not None]

    def _assemble(self, row: RowOfTurns) -> RenderedRow | None:
        """Put a conversation together from the pieces of its shape; None where it has to be rendered."""
        number, turns, tools = row
        if tools or any(turn["extra"] or turn["weight"] not in (None, 0.0, 1.0) for turn in turns):
            return None
        trained = select_trained(turns, self.data.loss_on)
        roles, texts = [turn["role"] for turn in turns], [turn["content"] for turn in turns]
        assembled = self.shapes.assemble(roles, texts, trained)
        return None if assembled is None else RenderedRow(number, *assembled, set())

    def _render_together(self, rows: Sequence[RowOfTurns]) -> list[RenderedRow]:
        prepared = [each for row in rows if (each := self._prepare_chat(*row)) is not None]
        chats = [each.chat for each in prepared]
        render_chats(chats, [self._list_asks(each) for each in prepared])
        faults = check_control_tokens(chats)
        found = [self._render_chat(each, fault) for each, fault in zip(prepared, faults, strict=True)]
        return [each for each in found if each is not None]

    def _prepare_chat(self, number: int, turns: Turns, tools: str | None) -> _PreparedChat | None:
        told = restore_tools(tools)
        try:
            messages = split_thoughts(self.tokenizer, self.template, restore_messages(turns))
            trained = select_trained(turns, self.data.loss_on)
            chat = prepare_chat(self.tokenizer, self.template, messages, told)
        except ChatTemplateError as problem:
            self._refuse_chat(number, problem, turns)
            return None
        except TemplateLimitError as problem:
            self._refuse_limit(number, problem)
            return None
        return _PreparedChat(number, chat, trained, self.control.find_spelled([messages, told]))

    def _list_asks(self, prepared: _PreparedChat) -> list[Ask]:
        """List what is rendered ahead of a conversation, together with others."""
        whole = Ask(len(prepared.chat.messages))
        if self.data.loss_on == "all":
            left_out = [index for index, train in enumerate(prepared.trained) if not train]
            asks = [whole, *(Ask(count) for index in left_out for count in (index, index + 1) if count)]
        else:
            asks = list_asks(prepared.chat, prepared.trained)
        # 800 turns of 2 KB: 1,200 renders of half of it, 900 MB.
        too_much = len(asks) * count_characters(prepared.chat.messages) > MAX_CHARACTERS_AHEAD
        return [whole] if too_much else asks

    def _render_chat(self, prepared: _PreparedChat, fault: Fault | None) -> RenderedRow | None:
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
        return RenderedRow(prepared.row, chat.text(), spans, prepared.spelled)

    def _refuse_limit(self, number: int, problem: TemplateLimitError) -> None:
        self.refuse(number, f"the chat template {problem.what} on this row", problem.remedy, code=problem.code)
        self.rows_at_fault.append(number)
        if self.gave_up:
            raise self.describe_problems() from problem

    def _refuse_chat(self, number: int, problem: ChatTemplateError, messages: Sequence[Message]) -> None:
        roles = ", ".join(message["role"] for message in messages)
        self.refuse(number, f"{problem} (roles: {roles})", self._remedy(problem, roles), code=problem.code)

    def _remedy(self, problem: ChatTemplateError, roles: str) -> str:
        if not isinstance(problem, TextLeftOut):
            told = roles.startswith(("system, user", "developer, user"))
            if told and not self.data.fold_system and not writes_system(self.tokenizer, self.template):
                return "set data.fold_system: true, which writes a system message into the first question"
            return "change the row, or name another data.chat_template"
        name = template_name(self.data, self.template)
        return f"mend {name} (a message's text is `content`, a string), or name another data.chat_template"

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


def _by_row(problem: tuple[int, Problem]) -> int:
    return problem[0]


def write_plain(tokenizer: PreTrainedTokenizerFast, first: int, table: pa.Table, loss_on: str) -> list[RenderedRow]:
    """Write the rows of a table of prompts and completions as they stand: [bos] prompt completion eos.

    No template, and no separator; the first row is number `first`.
    """
    control = get_control_tokens(tokenizer)
    # With one token for both (GPT-2), every row would begin with the token that ends a text.
    begin = str(tokenizer.bos_token) if tokenizer.bos_token_id not in (None, tokenizer.eos_token_id) else ""
    rows = []
    pairs = zip(table.column("prompt").to_pylist(), table.column("completion").to_pylist(), strict=True)
    for number, (prompt, completion) in enumerate(pairs, first):
        before = begin + control.mark(prompt)
        text = before + control.mark(completion) + str(tokenizer.eos_token)
        start = 0 if loss_on == "all" else len(before)
        rows.append(RenderedRow(number, text, [(start, len(text))], control.find_spelled([prompt, completion])))
    return rows
