"""Whether a rendered turn says what its message says, whatever the template trims, splits or quotes.

A template with a typo (`m.text` for `m.content`), or one that wants content as a list of parts, renders without an
error: jinja writes nothing for what it does not find. So the text is looked for, white space aside.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator, Mapping
from typing import Any

from hf_finetune.chat.special_tokens import MARK, iterate_strings

THOUGHT_BEGINS, THOUGHT_ENDS = "<think>", "</think>"

# How a template writes a string inside a structure: as JSON (`tojson`), in ASCII or not, or as Python shows it.
QUOTED: tuple[Callable[[str], str], ...] = (json.dumps, lambda text: json.dumps(text, ensure_ascii=False), repr)
UNQUOTED = str.maketrans("", "", "\"'\\")


class Written:
    """A rendered text without white space, in which texts of messages are looked for."""

    def __init__(self, text: str) -> None:
        self.text = solid(text)
        self._unquoted: str | None = None

    def holds(self, said: str) -> bool:
        """Whether `said` stands there as it is, or quoted; a blank text always does."""
        return solid(said) in self.text or any(self._holds_quoted(form(said.replace(MARK, ""))) for form in QUOTED)

    def _holds_quoted(self, form: str) -> bool:
        if self._unquoted is None:
            self._unquoted = self.text.translate(UNQUOTED)
        bare = solid(form).translate(UNQUOTED)
        return bool(bare) and bare in self._unquoted


def solid(text: str) -> str:
    """`text` without white space, and without the marks of what it spells."""
    return "".join(text.replace(MARK, "").split())


def missing_from(written: Written, message: Mapping[str, Any]) -> str | None:
    """What of a message of the assistant is not written there, in a word; None where all of it is.

    Its thoughts may be missing beside an answer: many templates leave those of earlier turns out.
    """
    contents = list(_texts(message.get("content")))
    if not all(any(map(written.holds, _without_thought(content))) for content in contents):
        return "the text"
    calls = _calls(message)
    if not all(_is_called(written, call) for call in calls):
        return "a tool call"
    thought = message.get("reasoning_content")
    if isinstance(thought, str) and not calls and not any(map(solid, contents)) and not written.holds(thought):
        return "the thoughts"
    return None


def is_written(written: Written, message: Mapping[str, Any]) -> bool:
    """Whether the content of a message that nobody trains stands there."""
    return all(map(written.holds, _texts(message.get("content"))))


def _texts(content: Any) -> Iterator[str]:
    """The text of a content, or of each of its parts."""
    if isinstance(content, str):
        yield content
    elif isinstance(content, list):
        yield from (part["text"] for part in content if isinstance(part, dict) and isinstance(part.get("text"), str))


def _without_thought(content: str) -> Iterator[str]:
    """A content in whole; without what a header may have opened already; and what a template keeps of earlier turns."""
    yield content
    bare = content.replace(MARK, "").strip()
    if bare.startswith(THOUGHT_BEGINS):
        yield bare.removeprefix(THOUGHT_BEGINS)
    answer = bare.rpartition(THOUGHT_ENDS)
    if answer[1] and answer[2].strip():
        yield answer[2]


def _calls(message: Mapping[str, Any]) -> list[Mapping[str, Any]]:
    """The functions called: OpenAI's list of tool calls, each in full or the function alone, or the old form."""
    calls = message.get("tool_calls") or []
    called = [call.get("function", call) for call in calls if isinstance(call, dict)] if isinstance(calls, list) else []
    called.append(message.get("function_call"))
    return [function for function in called if isinstance(function, dict)]


def _is_called(written: Written, function: Mapping[str, Any]) -> bool:
    """Whether name and arguments stand there; as JSON, as XML, or as Python's keywords."""
    arguments = function.get("arguments")
    if isinstance(arguments, str) and not written.holds(arguments):
        try:
            arguments = json.loads(arguments.replace(MARK, ""))
        except json.JSONDecodeError:
            return False
    elif isinstance(arguments, str):
        arguments = None
    return all(map(written.holds, [*iterate_strings(function.get("name")), *iterate_strings(arguments)]))
