"""The row formats: the fields of a row, and the intermediate form that each kind of row is converted to.

    document           {"text"}                       labelled     {"text", "text_pair", "label"}
    conversation       {"messages", "tools"}          prompt_completion     {"prompt", "completion"}

Free-form JSON (`tools`, and the keys of a message besides its role and content, such as `tool_calls`) is kept as the
JSON text of the file, byte for byte: as Arrow structs, rows with different keys would gain each other's as nulls.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Literal

import msgspec
from msgspec import UNSET, Struct

from hf_finetune.config.sections import RowFormatName
from hf_finetune.data.reading.row_types import (
    AlpacaRow,
    InputOutputRow,
    InstructionRow,
    LabelledInputOutputRow,
    LabelledRow,
    Message,
    MessagesRow,
    NumberInputOutputRow,
    NumberRow,
    PromptCompletionRow,
    QuestionAnswerRow,
    ShareGptRow,
    ShareGptTurn,
    TextRow,
    UserAssistantRow,
)

if TYPE_CHECKING:
    from datasets import Features

Kind = Literal["document", "labelled", "conversation", "prompt_completion"]
LabelKind = Literal["string", "integer", "list of strings", "list of integers", "empty list", "number"]
Columns = dict[str, list[Any]]

MESSAGE_EXTRAS = ("name", "tool_calls", "tool_call_id", "function_call", "reasoning_content")


@dataclass(frozen=True, slots=True)
class Items:
    """The list of objects inside a conversation row: its field, and the fields of each object."""

    field: str
    item_type: type[Struct]
    required: tuple[str, ...]
    optional: tuple[str, ...]
    text: str
    """The field of `required` that may be null or absent where the item calls a tool."""
    speaker_and_text: tuple[str, str]
    """The attributes of `item_type` with the speaker and the text."""


@dataclass(frozen=True, slots=True)
class RowFormat:
    """One way to write a row, and its conversion to the intermediate form."""

    name: RowFormatName
    becomes: Kind
    required: tuple[str, ...]
    row_type: type[Struct]
    columns: Callable[[Sequence[Any]], Columns]
    optional: tuple[str, ...] = ()
    items: Items | None = None
    label: str | None = None
    """The field that holds the label."""
    numbers: bool = False
    """Labels are numbers to predict: regression."""
    answer: str | None = None
    """The field with the trained text, where a row is one prompt and its answer."""
    in_text_file: bool = False
    """The rows are cut from plain text, not written as JSON."""


def _unset_to_none(value: Any) -> Any:
    return None if value is UNSET else value


def _convert_documents(rows: Sequence[TextRow]) -> Columns:
    return {"text": [row.text for row in rows]}


def _convert_labelled(rows: Sequence[LabelledRow]) -> Columns:
    return {
        "text": [row.text for row in rows],
        "text_pair": [_unset_to_none(row.text_pair) for row in rows],
        "label": [row.label for row in rows],
    }


def _convert_labelled_input_output(rows: Sequence[LabelledInputOutputRow]) -> Columns:
    return {
        "text": [row.input for row in rows],
        "text_pair": [None] * len(rows),
        "label": [row.output for row in rows],
    }


def _convert_numbers(columns: Columns) -> Columns:
    return columns | {"label": [float(label) for label in columns["label"]]}


def _convert_prompt_completion(rows: Sequence[PromptCompletionRow]) -> Columns:
    return {"prompt": [row.prompt for row in rows], "completion": [row.completion for row in rows]}


def _build_message(role: str, content: str, turn: Message | ShareGptTurn | None = None) -> dict[str, Any]:
    """Build a message of the intermediate form; absent fields become None."""
    train = _unset_to_none(turn.train) if turn else None
    weight = _unset_to_none(turn.weight) if turn else None
    return {
        "role": role,
        "content": content,
        "train": train,
        "weight": None if weight is None else float(weight),
        "extra": (turn.extra or None) if turn else None,
    }


def _convert_messages(rows: Sequence[MessagesRow]) -> Columns:
    return {
        "messages": [[_build_message(turn.role, turn.content, turn) for turn in row.messages] for row in rows],
        "tools": [_unset_to_none(row.tools) for row in rows],
    }


SHAREGPT_ROLES = {
    "system": "system",
    "human": "user",
    "user": "user",
    "gpt": "assistant",
    "assistant": "assistant",
    "chatgpt": "assistant",
    "tool": "tool",
    "observation": "tool",
}


def _convert_sharegpt(rows: Sequence[ShareGptRow]) -> Columns:
    return {
        "messages": [
            [_build_message(SHAREGPT_ROLES[turn.sender], turn.value, turn) for turn in row.conversations]
            for row in rows
        ],
        "tools": [_unset_to_none(row.tools) for row in rows],
    }


def _build_exchanges(questions: list[str], answers: list[str]) -> Columns:
    pairs = zip(questions, answers, strict=True)
    return {
        "messages": [
            [_build_message("user", asked), _build_message("assistant", answered)] for asked, answered in pairs
        ],
        "tools": [None] * len(questions),
    }


def _convert_alpaca(rows: Sequence[AlpacaRow]) -> Columns:
    # The Alpaca data writes a row without an input as "input": "".
    asked = [f"{row.instruction}\n\n{row.input}" if row.input else row.instruction for row in rows]
    return _build_exchanges(asked, [row.output for row in rows])


def _make_converter(question: str, answer: str) -> Callable[[Sequence[Any]], Columns]:
    """Make a function that converts rows of two fields to conversations."""

    def columns(rows: Sequence[Any]) -> Columns:
        return _build_exchanges([getattr(row, question) for row in rows], [getattr(row, answer) for row in rows])

    return columns


def _make_two_field_format(name: RowFormatName, row_type: type[Struct], question: str, answer: str) -> RowFormat:
    return RowFormat(
        name, "conversation", (question, answer), row_type, _make_converter(question, answer), answer=answer
    )


LABELLED_INPUT_OUTPUT = RowFormat(
    "labelled", "labelled", ("input", "output"), LabelledInputOutputRow, _convert_labelled_input_output, label="output"
)
NUMBERS = RowFormat(
    "labelled",
    "labelled",
    ("text", "label"),
    NumberRow,
    lambda rows: _convert_numbers(_convert_labelled(rows)),
    ("text_pair",),
    label="label",
    numbers=True,
)
NUMBERS_INPUT_OUTPUT = RowFormat(
    "labelled",
    "labelled",
    ("input", "output"),
    NumberInputOutputRow,
    lambda rows: _convert_numbers(_convert_labelled_input_output(rows)),
    label="output",
    numbers=True,
)

FORMATS: dict[str, RowFormat] = {
    row_format.name: row_format
    for row_format in (
        RowFormat("text", "document", ("text",), TextRow, _convert_documents),
        RowFormat("lines", "document", ("text",), TextRow, _convert_documents, in_text_file=True),
        RowFormat("paragraphs", "document", ("text",), TextRow, _convert_documents, in_text_file=True),
        RowFormat("file", "document", ("text",), TextRow, _convert_documents, in_text_file=True),
        RowFormat(
            "labelled", "labelled", ("text", "label"), LabelledRow, _convert_labelled, ("text_pair",), label="label"
        ),
        RowFormat(
            "messages",
            "conversation",
            ("messages",),
            MessagesRow,
            _convert_messages,
            ("tools",),
            Items(
                "messages",
                Message,
                ("role", "content"),
                ("train", "weight"),
                text="content",
                speaker_and_text=("role", "content"),
            ),
        ),
        RowFormat(
            "sharegpt",
            "conversation",
            ("conversations",),
            ShareGptRow,
            _convert_sharegpt,
            ("tools",),
            Items(
                "conversations",
                ShareGptTurn,
                ("from", "value"),
                ("train", "weight"),
                text="value",
                speaker_and_text=("sender", "value"),
            ),
        ),
        RowFormat(
            "alpaca", "conversation", ("instruction", "output"), AlpacaRow, _convert_alpaca, ("input",), answer="output"
        ),
        _make_two_field_format("instruction", InstructionRow, "instruction", "response"),
        RowFormat(
            "prompt_completion",
            "prompt_completion",
            ("prompt", "completion"),
            PromptCompletionRow,
            _convert_prompt_completion,
            answer="completion",
        ),
        _make_two_field_format("input_output", InputOutputRow, "input", "output"),
        _make_two_field_format("user_assistant", UserAssistantRow, "user", "assistant"),
        _make_two_field_format("question_answer", QuestionAnswerRow, "question", "answer"),
    )
}


def get_features(becomes: Kind, label_kind: LabelKind | None = None) -> Features:
    """Return the columns of the intermediate form; `label_kind` is needed for labelled rows."""
    from datasets import Features, List, Value  # a second and a half, and `predict` and `chat` need none of it

    text = Value("string")
    if becomes == "document":
        return Features({"text": text})
    if becomes == "prompt_completion":
        return Features({"prompt": text, "completion": text})
    if becomes == "conversation":
        turn = {"role": text, "content": text, "train": Value("bool"), "weight": Value("float64"), "extra": text}
        return Features({"messages": List(turn), "tools": text})
    if label_kind == "number":
        return Features({"text": text, "text_pair": text, "label": Value("float64")})
    element = Value("int64") if label_kind in {"integer", "list of integers"} else text
    label = element if label_kind in {"string", "integer"} else List(element)
    return Features({"text": text, "text_pair": text, "label": label})


def restore_messages(messages: Sequence[Mapping[str, Any]]) -> list[dict[str, Any]]:
    """Restore the messages of one row as the file has them, without `train` and `weight`, for a chat template."""
    return [
        {"role": message["role"], "content": message["content"]}
        | (json.loads(message["extra"]) if message["extra"] else {})
        for message in messages
    ]


def restore_tools(tools: str | None) -> list[dict[str, Any]] | None:
    """Restore the tools of one row as the file has them."""
    return json.loads(tools) if tools else None


def encode_row(values: tuple[Any, ...]) -> bytes:
    """Encode a row, its columns in order, to the bytes by which rows are compared and hashed."""
    return msgspec.json.encode(values)
