"""Calls of functions in an answer, found by how the model's own chat template writes them."""

from __future__ import annotations

import json
import secrets
from dataclasses import dataclass
from typing import Any

from transformers import PreTrainedTokenizerFast

from hf_finetune.chat.rendering import Message
from hf_finetune.chat.template import get_default_template, prepare_chat
from hf_finetune.errors import FinetuneError

_NAME, _KEY, _VALUE = "probed_function", "probed_key", "probed_value"
_QUESTION: Message = {"role": "user", "content": "Which one?"}
_TOOL = {
    "type": "function",
    "function": {
        "name": _NAME,
        "description": "Finds it.",
        "parameters": {"type": "object", "properties": {_KEY: {"type": "string"}}, "required": [_KEY]},
    },
}
_CALL = {"id": "call00001", "type": "function", "function": {"name": _NAME, "arguments": {_KEY: _VALUE}}}


@dataclass(frozen=True, slots=True)
class ToolForm:
    """How a template writes calls: as JSON between two marks."""

    start: str
    """Before a call, such as `<tool_call>`; "" where the call is all that there is."""
    name_key: str
    arguments_key: str


@dataclass(frozen=True, slots=True)
class ParsedAnswer:
    content: str
    calls: list[dict[str, Any]]


@dataclass(frozen=True, slots=True)
class Tools:
    """What a template does with tools."""

    taken: bool
    """It writes the tools that are given."""
    form: ToolForm | None
    """None where it writes calls in no JSON: they stay text."""


def find_tools(tokenizer: PreTrainedTokenizerFast) -> Tools:
    """Find what the tokenizer's template does with tools, and how it writes a call."""
    # A template shows what a model was trained on: rendered with a call whose words are known, it says what stands
    # before the JSON and what its keys are. Qwen: `<tool_call>\n{"name": ..., "arguments": ...}\n</tool_call>`.
    template = get_default_template(tokenizer)
    answer: Message = {"role": "assistant", "content": "", "tool_calls": [_CALL]}
    try:
        asked = prepare_chat(tokenizer, template, [_QUESTION], [_TOOL]).text(prompt=True)
        if _NAME not in asked:
            return Tools(False, None)
        told = prepare_chat(tokenizer, template, [_QUESTION, answer], [_TOOL]).text()
    except FinetuneError:
        return Tools(False, None)
    return Tools(True, _read_form(told.removeprefix(asked)) if told.startswith(asked) else None)


def _read_form(written: str) -> ToolForm | None:
    for place, letter in enumerate(written):
        if letter not in "[{" or (found := _decode(written, place)) is None:
            continue
        value = found[0]
        call = value[0] if isinstance(value, list) and value else value
        if not isinstance(call, dict) or _NAME not in call.values():
            continue
        keys = {str(item): key for key, item in call.items()}
        arguments = keys.get(str({_KEY: _VALUE})) or keys.get(json.dumps({_KEY: _VALUE}))
        if arguments is not None:
            # Behind what else an answer begins with: an empty thought, for one.
            start = [line.strip() for line in written[:place].splitlines() if line.strip()][-1:]
            return ToolForm("".join(start), keys[_NAME], arguments)
    return None


def parse_answer(form: ToolForm, text: str) -> ParsedAnswer:
    """Take the calls out of an answer; what is none, or no valid one, stays text."""
    places = _find_starts(form, text)
    calls, first = [], len(text)
    # Arguments are a model's words: what is no valid call stays what it is, text.
    for place in places:
        found = _decode(text, place + _count_blanks(text[place:]))
        values = [] if found is None else found[0] if isinstance(found[0], list) else [found[0]]
        read = [call for value in values if (call := _read_call(form, value)) is not None]
        if read:
            first = min(first, place - len(form.start))
            calls += read
    return ParsedAnswer(text[:first].strip() if calls else text, calls)


def _find_starts(form: ToolForm, text: str) -> list[int]:
    """Where the JSON of calls may begin."""
    if not form.start:
        return [0] if text.lstrip().startswith(("{", "[")) else []
    places, place = [], text.find(form.start)
    while place >= 0:
        places.append(place + len(form.start))
        place = text.find(form.start, places[-1])
    return places


def _read_call(form: ToolForm, value: Any) -> dict[str, Any] | None:
    if not isinstance(value, dict) or not isinstance(value.get(form.name_key), str):
        return None
    arguments = value.get(form.arguments_key, {})
    written = arguments if isinstance(arguments, str) else json.dumps(arguments, ensure_ascii=False)
    function = {"name": value[form.name_key], "arguments": written}
    return {"id": f"call_{secrets.token_hex(12)}", "type": "function", "function": function}


def _decode(text: str, place: int) -> tuple[Any, int] | None:
    try:
        return json.JSONDecoder().raw_decode(text, place)
    except (ValueError, RecursionError):
        return None


def _count_blanks(text: str) -> int:
    return len(text) - len(text.lstrip())
