"""Checks of a conversation beyond its keys and types: known roles in a valid order, and answers that are not empty.

Whether the user speaks first, or twice in a row, is left to the chat template.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from itertools import chain, pairwise
from operator import attrgetter
from typing import Any

from msgspec import UNSET, Struct

from hf_finetune.data.reading.formats import SHAREGPT_ROLES, RowFormat
from hf_finetune.data.reading.json_line import LineError
from hf_finetune.errors import suggest

SYSTEM_ROLES = ("system", "developer")
ROLES = (*SYSTEM_ROLES, "user", "assistant", "tool", "function")

# Data sets have few sequences of roles; the bound is for a file in which every row has another.
_MAX_SEQUENCES = 10_000
_SHOWN_BEFORE, _SHOWN_AFTER, _SHOWN_CHARACTERS = 8, 3, 30
_EMPTY_REMEDY = "fill it in, take the row out, or set data.allow_empty: true"


class ConversationRules:
    """Checks decoded rows of one format; of others than conversations, the answer or the text to label alone."""

    def __init__(self, row_format: RowFormat, *, allow_empty: bool, asked: bool = False) -> None:
        """`asked`: a conversation is to be answered, and not trained; it needs a question, and no answer."""
        self._allow_empty, self._asked = allow_empty, asked
        labels = row_format.becomes == "labelled"
        self._filled = row_format.required[0] if labels else row_format.answer
        """The field that must not be blank."""
        self._why = "there is nothing to label" if labels else "the model would learn to answer nothing"
        self._items = row_format.items
        self._valid_sequences: set[tuple[str, ...]] = set()
        """Sequences of roles, as the file names them, that were found valid."""
        if self._items is not None:
            role, text = self._items.speaker_and_text
            self._turns, self._speaker_and_text = attrgetter(self._items.field), attrgetter(role, text)
            self._role, self._text = attrgetter(role), attrgetter(text)

    def accept_all(self, rows: Sequence[Struct]) -> bool:
        """True if no row has a fault."""
        return self._pass_fast_check(rows) or not any(map(self.find_fault, rows))

    def _pass_fast_check(self, rows: Sequence[Struct]) -> bool:
        """Fast path: True if all role sequences are known to be valid and no text is empty; else "check each"."""
        if self._items is None:
            filled = self._filled
            return filled is None or self._allow_empty or _has_no_blank([getattr(row, filled) for row in rows])
        conversations = list(map(self._turns, rows))
        if not {tuple(map(self._role, turns)) for turns in conversations} <= self._valid_sequences:
            return False
        turns = list(chain.from_iterable(conversations))
        if any(turn.train is not UNSET or turn.weight is not UNSET for turn in turns):
            return False
        return _has_no_blank(list(map(self._text, turns)))

    def find_fault(self, row: Struct) -> LineError | None:
        """Return the reason to reject a row, or None."""
        if self._items is not None:
            return self._find_conversation_fault(self._turns(row), self._items.field)
        if self._filled is None or self._allow_empty or not _is_blank(getattr(row, self._filled)):
            return None
        return LineError(f"`{self._filled}` is empty: {self._why}", _EMPTY_REMEDY, key=self._filled, code="HF028")

    def _find_conversation_fault(self, turns: Sequence[Any], field: str) -> LineError | None:
        """Return the fault of the messages in `field`, or None; remembers valid sequences of roles."""
        spoken = [self._speaker_and_text(turn) for turn in turns]
        written = tuple([role for role, _ in spoken])
        roles = [SHAREGPT_ROLES.get(role, role) for role in written]
        if written not in self._valid_sequences:
            fault = _find_order_fault(roles, field, asked=self._asked)
            if fault is not None:
                return fault
            if len(self._valid_sequences) < _MAX_SEQUENCES:
                self._valid_sequences.add(written)
        trained = self._asked
        for number, (role, (_, text)) in enumerate(zip(roles, spoken, strict=True)):
            if role != "assistant":
                continue
            turn = turns[number]
            if _is_blank(text) and not (self._allow_empty or self._asked) and not _calls_tool(turn.extra):
                what = f"the assistant says nothing in `{field}[{number}]`: the model would learn to answer nothing"
                return LineError(f"{what} {_format_roles(roles, number)}", _EMPTY_REMEDY, key=field, code="HF028")
            trained = trained or (turn.train is not False and turn.weight != 0)
        if not trained:
            what = "`train` or `weight` leaves out every turn of the assistant"
            return LineError(
                f"{what} {_format_roles(roles, 0)}", "train one of them, or take the row out", key=field, code="HF030"
            )
        return None


def _has_no_blank(texts: Sequence[str]) -> bool:
    return all(texts) and not any(map(str.isspace, texts))


def _is_blank(text: str) -> bool:
    return not text or text.isspace()


def _calls_tool(extra: str) -> bool:
    beside = json.loads(extra) if extra else {}
    return bool(beside.get("tool_calls") or beside.get("function_call"))


def _find_order_fault(roles: Sequence[str], field: str, *, asked: bool) -> LineError | None:
    """Return the fault of a sequence of roles, or None."""
    # [user, assistant, tool, assistant] is valid, [user, assistant, system] and [user, assistant, assistant] are not.
    for number, role in enumerate(roles):
        if role not in ROLES:
            remedy = suggest(role, ROLES, f"the roles are {', '.join(ROLES)}")
            return LineError(
                f"`{field}[{number}]` has an unknown role {_format_roles(roles, number)}",
                remedy,
                key=field,
                code="HF031",
            )
    if asked and {*roles} <= {*SYSTEM_ROLES, "assistant"}:
        what = f"nobody asks anything {_format_roles(roles, 0)}"
        return LineError(what, "add what is to be answered as a message of the user", key=field, code="HF030")
    if not asked and "assistant" not in roles:
        remedy = "there is nothing to train on: take the row out"
        return LineError(f"the assistant never speaks {_format_roles(roles, 0)}", remedy, key=field, code="HF030")
    for number, (before, role) in enumerate(pairwise(roles), 1):
        if role in SYSTEM_ROLES and before not in SYSTEM_ROLES:
            what = f"`{field}[{number}]` is a {role} message after others"
            return LineError(f"{what} {_format_roles(roles, number)}", "put it first", key=field, code="HF032")
        if role == before == "assistant":
            what = f"the assistant speaks twice in a row in `{field}[{number}]`"
            remedy = "join the two messages, or put back what stood between them"
            return LineError(f"{what} {_format_roles(roles, number)}", remedy, key=field, code="HF032")
    return None


def _format_roles(roles: Sequence[str], around: int) -> str:
    """Format the roles near position `around`; never the text of a message."""
    start, stop = max(around - _SHOWN_BEFORE, 0), around + _SHOWN_AFTER
    shown = ["…"] * (start > 0) + [role[:_SHOWN_CHARACTERS] for role in roles[start:stop]] + ["…"] * (stop < len(roles))
    return f"(roles: {', '.join(shown)})"
