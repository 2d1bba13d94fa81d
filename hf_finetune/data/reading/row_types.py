"""The rows of each format, as msgspec types."""

from __future__ import annotations

from typing import Annotated, Literal

from msgspec import UNSET, Meta, Struct, UnsetType

Int64 = Annotated[int, Meta(ge=-(2**63), le=2**63 - 1)]
NonEmpty = Annotated[str, Meta(min_length=1)]
# Set by the decoder from raw bytes. The pattern matches no string, so no value in a file can set this field.
RawJson = Annotated[str, Meta(pattern=r"(?!)")]
Label = str | Int64 | list[str | Int64]


# gc=False: rows hold no cycles, and the garbage collector need not walk through millions of them.
class TextRow(Struct, forbid_unknown_fields=True, gc=False):
    text: str


class LabelledRow(Struct, forbid_unknown_fields=True, gc=False):
    text: str
    label: Label
    text_pair: str | UnsetType | None = UNSET


class NumberRow(Struct, forbid_unknown_fields=True, gc=False):
    text: str
    label: Int64 | float
    text_pair: str | UnsetType | None = UNSET


class NumberInputOutputRow(Struct, forbid_unknown_fields=True, gc=False):
    input: str
    output: Int64 | float


class LabelledInputOutputRow(Struct, forbid_unknown_fields=True, gc=False):
    input: str
    output: Label


class Message(Struct, forbid_unknown_fields=True, gc=False):
    """One message. `content` is "" where the file has null, which `extra` then holds."""

    role: NonEmpty
    content: str
    train: bool | UnsetType | None = UNSET
    weight: Int64 | float | UnsetType | None = UNSET
    extra: RawJson = ""


class ShareGptTurn(Struct, forbid_unknown_fields=True, gc=False, rename={"sender": "from"}):
    sender: Literal["system", "human", "user", "gpt", "assistant", "chatgpt", "tool", "observation"]
    value: str
    train: bool | UnsetType | None = UNSET
    weight: Int64 | float | UnsetType | None = UNSET
    extra: RawJson = ""


class MessagesRow(Struct, forbid_unknown_fields=True, gc=False):
    messages: Annotated[list[Message], Meta(min_length=1)]
    tools: RawJson | UnsetType | None = UNSET


class ShareGptRow(Struct, forbid_unknown_fields=True, gc=False):
    conversations: Annotated[list[ShareGptTurn], Meta(min_length=1)]
    tools: RawJson | UnsetType | None = UNSET


class AlpacaRow(Struct, forbid_unknown_fields=True, gc=False):
    instruction: str
    output: str
    input: str | UnsetType | None = UNSET


class InstructionRow(Struct, forbid_unknown_fields=True, gc=False):
    instruction: str
    response: str


class PromptCompletionRow(Struct, forbid_unknown_fields=True, gc=False):
    prompt: str
    completion: str


class InputOutputRow(Struct, forbid_unknown_fields=True, gc=False):
    input: str
    output: str


class UserAssistantRow(Struct, forbid_unknown_fields=True, gc=False):
    user: str
    assistant: str


class QuestionAnswerRow(Struct, forbid_unknown_fields=True, gc=False):
    question: str
    answer: str
