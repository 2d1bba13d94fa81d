"""A rendered conversation, and which part of it each message is: no marker in the template is needed."""

from __future__ import annotations

import os
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

from jinja2.exceptions import TemplateError
from transformers import PreTrainedTokenizerFast

from hf_finetune.data.control_tokens import ControlTokens, control_tokens
from hf_finetune.data.rendering import bound_templates
from hf_finetune.data.turn_texts import Written, is_written, missing_from

Message = dict[str, Any]
Span = tuple[int, int]

ASKING_ROLES = ("user", "tool", "function")
BETWEEN = "\0"
"""Where a control token was: texts on its two sides are not one."""

bound_templates()


class ChatProblem(Exception):
    """What is wrong with one conversation under one template; the caller knows its file and line."""


class TextLeftOut(ChatProblem):
    """The template writes no trace of what a message says, or not all of it."""


@dataclass
class Renderer:
    """A conversation under a template, each prefix of it rendered at most once."""

    tokenizer: PreTrainedTokenizerFast
    template: str
    messages: list[Message]
    tools: list[dict[str, Any]] | None = None
    _texts: dict[tuple[int, bool], str] = field(default_factory=dict)

    def text(self, count: int | None = None, *, prompt: bool = False) -> str:
        """The first `count` messages, all by default; `prompt` adds the header of the answer that comes next."""
        count = len(self.messages) if count is None else count
        if (count, prompt) not in self._texts:
            self._texts[count, prompt] = self.with_messages(self.messages[:count], prompt=prompt)
        return self._texts[count, prompt]

    def with_messages(self, messages: list[Message], *, prompt: bool = False) -> str:
        """Other messages under the same template.

        Raises `ChatProblem` where it refuses them, and `ModelError` where it goes beyond the bounds of `rendering`.
        """
        try:
            return str(
                self.tokenizer.apply_chat_template(
                    messages,
                    tools=self.tools,  # type: ignore[arg-type]
                    chat_template=self.template,
                    add_generation_prompt=prompt,
                    tokenize=False,
                )
            )
        except (TemplateError, TypeError, ValueError, KeyError, AttributeError, IndexError) as refusal:
            raise ChatProblem(f"the chat template refuses it: {_reason(refusal)}") from refusal


def _reason(refusal: Exception) -> str:
    text = str(refusal).strip().splitlines()
    return text[0][:200] if text else type(refusal).__name__


def trained_spans(chat: Renderer, trained: Sequence[bool]) -> list[Span]:
    """Where in `chat.text()` each trained assistant message stands, its end-of-turn token included.

    A turn begins where the header of the answer ends and closes with its end token; both are found by rendering the
    conversation up to it, so that no marker in the template is needed. Raises `ChatProblem` where the template writes
    earlier messages otherwise once later ones follow, or closes no turn.
    """
    return [
        _turn(chat, index)
        for index, message in enumerate(chat.messages)
        if message["role"] == "assistant" and trained[index]
    ]


def check_said(chat: Renderer, trained: Sequence[bool], spans: Sequence[Span]) -> None:
    """Raise `TextLeftOut` where a span of `trained_spans` does not hold its message, or the text not what is answered.

    The assistant's turns that nobody trains, and the system's, are left to the template, which may shorten them.
    """
    indices = [index for index, train in enumerate(trained) if train and chat.messages[index]["role"] == "assistant"]
    for index, span in zip(indices, spans, strict=True):
        _check_answer(chat, index, span)
    check_asked(chat)


def check_all_said(chat: Renderer, trained: Sequence[bool]) -> None:
    """As `check_said`, where whole conversations are trained: a message may stand anywhere."""
    for index, train in enumerate(trained):
        if train and chat.messages[index]["role"] == "assistant":
            _check_answer(chat, index, (0, len(chat.text())))
    check_asked(chat)


def check_asked(chat: Renderer, *, prompt: bool = False) -> None:
    """Raise `TextLeftOut` where what users and tools say does not stand in the text."""
    written = Written(chat.text(prompt=prompt))
    for index, message in enumerate(chat.messages):
        if message["role"] in ASKING_ROLES and not is_written(written, message):
            raise _left_out(chat, index, "the text")


def _check_answer(chat: Renderer, index: int, span: Span) -> None:
    # Without control tokens: "end" is no answer that `<|end|>` would hold.
    said = control_tokens(chat.tokenizer).unmarked.sub(BETWEEN, chat.text()[slice(*span)])
    missing = missing_from(Written(said), chat.messages[index])
    if missing is not None:
        raise _left_out(chat, index, missing)


def _left_out(chat: Renderer, index: int, what: str) -> TextLeftOut:
    return TextLeftOut(f"the chat template leaves out {what} of message {index + 1} ({chat.messages[index]['role']})")


def message_span(chat: Renderer, index: int) -> Span:
    """Where in `chat.text()` message `index` stands, header and all."""
    start = _settled(chat, index, chat.text(index)) if index else 0
    return start, _settled(chat, index + 1, chat.text(index + 1))


def _turn(chat: Renderer, index: int) -> Span:
    whole, control = chat.text(), control_tokens(chat.tokenizer)
    start = _start(chat, index, control)
    shared = _end(chat, index, control)
    last = None
    for match in control.unmarked.finditer(whole, start, shared):
        last = match
    if last is not None and not whole[last.end() : shared].strip():
        return start, last.end()
    following = control.unmarked.match(whole, shared)  # a conversation's last turn may end otherwise than the others
    if following is None:
        raise ChatProblem("the chat template ends no assistant turn with a token of the tokenizer")
    return start, following.end()


def _end(chat: Renderer, index: int, control: ControlTokens) -> int:
    """Where assistant message `index` ends, without what only the end of a conversation adds."""
    whole, count = chat.text(), index + 1
    if count < len(chat.messages):
        return _settled(chat, count, chat.text(count))
    try:
        going_on = chat.with_messages([*chat.messages, {"role": "user", "content": "A"}])
    except ChatProblem:
        return len(whole)
    shared = _common(whole, going_on, control)
    return shared if not control.unmarked.sub("", whole[shared:]).strip() else len(whole)


def _start(chat: Renderer, index: int, control: ControlTokens) -> int:
    """The position behind the header of assistant message `index`."""
    whole = chat.text()
    before = _settled(chat, index, _prefix(chat, index)) if index else 0
    try:
        asked = chat.text(index, prompt=True)
    except ChatProblem:  # nothing to answer yet, such as an opening by the assistant
        asked = ""
    if len(asked) > before:
        return max(before, _common(asked, whole, control))
    # No header of its own to ask with: what does not depend on the answer is the header.
    answers = [[*chat.messages[:index], {"role": "assistant", "content": content}] for content in ("A", "b")]
    one, other = (chat.with_messages(answer) for answer in answers)
    if one == other:
        raise TextLeftOut("the chat template writes the same whatever the assistant says")
    return max(before, _common(one[: _alike(one, other)], whole, control))


def _prefix(chat: Renderer, index: int) -> str:
    try:
        return chat.text(index)
    except ChatProblem:  # some templates want a user message before anything
        return ""


def _settled(chat: Renderer, count: int, text: str) -> int:
    """How much of `text`, the first `count` messages, stands in the whole conversation too; all but a closing token."""
    whole, control = chat.text(), control_tokens(chat.tokenizer)
    if whole.startswith(text):
        return len(text)
    shared = _common(text, whole, control)
    if control.unmarked.sub("", text[shared:]).strip():
        role = chat.messages[count - 1]["role"]
        raise ChatProblem(
            f"the chat template is not prefix-stable: it writes message {count} ({role}), or one before it, otherwise"
            " once later messages follow, so that what is trained would not be what is generated"
        )
    return shared


def _common(text: str, whole: str, control: ControlTokens) -> int:
    """Length of the common prefix, in whole pieces: a control token, or the text between two of them."""
    if whole.startswith(text):
        return len(text)
    limit, position = _alike(text, whole), 0
    for match in control.unmarked.finditer(text):
        if match.start() <= limit:
            position = match.start()
        if match.end() <= limit:
            position = match.end()
    return position


def _alike(one: str, other: str) -> int:
    return len(os.path.commonprefix([one, other]))  # noqa: RUF071 - character by character is what is wanted
