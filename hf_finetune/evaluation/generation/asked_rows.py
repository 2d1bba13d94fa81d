"""What `generate --input` asks of each row of a file: its conversation up to the last question, or its prompt."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace
from typing import Any

from msgspec import UNSET, Struct, UnsetType, defstruct

from hf_finetune.chat.assistant_mask import ASKING_ROLES
from hf_finetune.chat.rendering import Message
from hf_finetune.data.reading.formats import FORMATS, Columns, RowFormat, restore_messages, restore_tools
from hf_finetune.data.reading.row_decoder import RowDecoder
from hf_finetune.evaluation.prediction.rows import RowKind, Window, accept_added

CONVERSATIONS = {"messages": FORMATS["messages"], "conversations": FORMATS["sharegpt"]}
Asked = str | tuple[list[Message], list[dict[str, Any]] | None]
"""A prompt, or messages that end with a question, and tools."""
PROMPTS = ("prompt", "instruction", "question", "user", "input", "text")


def make_asked_kind(added: tuple[str, ...], rows_at_once: int) -> RowKind:
    """The rows of conversations and prompts, which get the fields `added`; each field that asks is enough alone."""

    def make_decoder(first: Mapping[str, Any]) -> RowDecoder:
        name = next(name for name in (*CONVERSATIONS, *PROMPTS) if name in first)
        if name not in CONVERSATIONS:
            return RowDecoder(_make_prompt_format(name, added), (), first)
        row_format = CONVERSATIONS[name]
        row_type = accept_added(row_format.row_type, added)
        return RowDecoder(replace(row_format, row_type=row_type), (), first, asked=True)

    return RowKind((*CONVERSATIONS, *PROMPTS), make_decoder, added, rows_at_once)


def _make_prompt_format(name: str, added: tuple[str, ...]) -> RowFormat:
    """One field that asks, with the `input` of an instruction: columns `prompt`."""
    more: list[Any] = [("more", str | UnsetType | None, UNSET)] if name == "instruction" else []
    renamed = {"asked": name, "more": "input"}
    row_type: type[Struct] = defstruct(
        "AskedRow", [("asked", str), *more], rename=renamed, forbid_unknown_fields=True, gc=False
    )

    def collect(rows: Sequence[Any]) -> Columns:
        # As an `alpaca` row is trained: the instruction, and below it what it is about.
        inputs = [getattr(row, "more", None) or None for row in rows]
        asked = zip((row.asked for row in rows), inputs, strict=True)
        return {"prompt": [question if about is None else f"{question}\n\n{about}" for question, about in asked]}

    optional = ("input",) if more else ()
    return RowFormat("text", "document", (name,), accept_added(row_type, added), collect, optional)


def list_asked(window: Window) -> list[Asked]:
    """What each row of a window asks."""
    if "messages" not in window.columns:
        return list(window.columns["prompt"])
    rows = zip(window.columns["messages"], window.columns["tools"], strict=True)
    return [(cut_answer(restore_messages(messages)), restore_tools(tools)) for messages, tools in rows]


def cut_answer(messages: list[Message]) -> list[Message]:
    """The messages up to the last one of a user or a tool: what stands behind it is what is asked for."""
    last = max(number for number, message in enumerate(messages) if message["role"] in ASKING_ROLES)
    return messages[: last + 1]


def regroup(windows: Iterator[Window], size: int) -> Iterator[Window]:
    """Yield the same rows in windows of `size` rows each, whatever the file was read in; the last may have less."""
    group = Window()
    for window in windows:
        group.problems += window.problems
        for place, line in enumerate(window.lines):
            group.lines.append(line)
            group.numbers.append(window.numbers[place])
            for name, values in window.columns.items():
                group.columns[name].append(values[place])
            if len(group.lines) == size:
                yield group
                group = Window()
    if group.lines or group.problems:
        yield group
