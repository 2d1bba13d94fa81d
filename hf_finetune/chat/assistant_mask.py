"""Conversations under a chat template, and the characters of each assistant turn; `{% generation %}` is not needed."""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any
from weakref import WeakKeyDictionary

from transformers import PreTrainedTokenizerFast

from hf_finetune.chat.rendering import Ask, Message, TemplateFailure, TemplateLimitError, install_sandbox, render_rows
from hf_finetune.chat.special_tokens import ControlTokens, get_control_tokens
from hf_finetune.chat.text_check import Written, is_written, missing_from

Span = tuple[int, int]

ASKING_ROLES = ("user", "tool", "function")
EMPTY_THOUGHTS = re.compile(r"\s*<think>\s*</think>\s*")
ANSWERS = ("answer", "other answer")
"""Tails that differ in their first character."""
BETWEEN = "\0"
"""Where a control token was: texts on its two sides are not one."""

_prefills: WeakKeyDictionary[PreTrainedTokenizerFast, dict[str, str]] = WeakKeyDictionary()

install_sandbox()


class ChatTemplateError(Exception):
    """A conversation that its template refuses or cannot mask; the caller adds the file and line."""

    def __init__(self, what: str, *, code: str) -> None:
        self.code = code
        super().__init__(what)


class TextLeftOut(ChatTemplateError):
    """The template writes no trace of what a message says, or not all of it."""


@dataclass
class RenderedChat:
    """A conversation under a chat template; each part of it is rendered at most once."""

    tokenizer: PreTrainedTokenizerFast
    template: str
    messages: list[Message]
    tools: list[dict[str, Any]] | None = None
    results: dict[Ask, str | Exception] = field(default_factory=dict)
    """What was rendered, or what is raised instead."""

    def text(self, count: int | None = None, *, prompt: bool = False, tail: str = "") -> str:
        """Render the first `count` messages (default: all); `prompt` appends the generation prompt.

        `tail` names further messages (`rendering.TAILS`). Raises `ChatTemplateError` where the template refuses them,
        `TemplateLimitError` where it exceeds a limit.
        """
        ask = Ask(len(self.messages) if count is None else count, prompt, tail)
        if ask not in self.results:
            render_chats([self], [[ask]])
        result = self.results[ask]
        if isinstance(result, TemplateLimitError):
            raise result
        if isinstance(result, Exception):
            # `raise_exception`, a field that a message lacks, content of another type: all of these are refusals.
            does = "fails on it" if isinstance(result, TemplateFailure) else "refuses it"
            raise ChatTemplateError(f"the chat template {does}: {_format_reason(result)}", code="HF141") from result
        return result

    def forget_before(self, index: int) -> None:
        """Drop what was rendered of the first `index` messages or fewer: each is as long as the conversation so far."""
        for ask in [ask for ask in self.results if ask.count <= index and ask.count < len(self.messages)]:
            del self.results[ask]


def render_chats(chats: Sequence[RenderedChat], asks: Sequence[Sequence[Ask]]) -> None:
    """Render what is asked of each of `chats`, of one tokenizer and template, in one exchange with the worker."""
    asked = [(chat, wanted) for chat, each in zip(chats, asks, strict=True) if (wanted := _not_yet(chat, each))]
    if not asked:
        return
    first = chats[0]
    rows = [
        {"messages": chat.messages, "tools": chat.tools, "asks": [ask.write() for ask in wanted]}
        for chat, wanted in asked
    ]
    rendered = render_rows(first.template, dict(first.tokenizer.special_tokens_map), rows)
    for (chat, wanted), results in zip(asked, rendered, strict=True):
        chat.results.update(zip(wanted, results, strict=True))


def _not_yet(chat: RenderedChat, asks: Sequence[Ask]) -> list[Ask]:
    """What of `asks` is still to be rendered; no messages at all are refused here already, as transformers does."""
    chat.results |= {ask: ValueError("there is no message") for ask in asks if not ask.count and not ask.tail}
    return [ask for ask in dict.fromkeys(asks) if ask not in chat.results]


def _format_reason(refusal: Exception) -> str:
    text = str(refusal).strip().splitlines()
    return text[0][:200] if text else type(refusal).__name__


def find_assistant_spans(chat: RenderedChat, trained: Sequence[bool], *, prefill: bool = False) -> list[Span]:
    """Find the trained assistant turns in `chat.text()`, their end-of-turn tokens included.

    Returns (start, stop) character offsets, one pair per trained turn; `trained` holds one flag per message. A turn
    starts behind its generation prompt, and behind an empty block of thoughts that the template writes there by itself
    (as Qwen3's) unless `prefill` says that this is trained, and stops behind its end token: both are found by rendering
    the conversation up to it, so the template needs no `{% generation %}`. Raises `ChatTemplateError` where the
    template rewrites earlier messages once later ones follow (it is not prefix-stable), or ends no turn with a token.
    """
    # Under the template `plain`, a question "Hi" and its answer "Yes." become
    #   <|bos|>User:\nHi<|eos|>\nAssistant:\nYes.<|eos|>\n
    # and the span of the answer is (34, 45): `Yes.<|eos|>`, without the line break behind it.
    spans = []
    for index, message in enumerate(chat.messages):
        if message["role"] == "assistant" and trained[index]:
            spans.append(_find_turn_span(chat, index, prefill=prefill))
            chat.forget_before(index)
    return spans


def list_asks(chat: RenderedChat, trained: Sequence[bool]) -> list[Ask]:
    """List what `find_assistant_spans` renders of a conversation, so that it can be rendered together with others."""
    # A template without a generation prompt is asked for two answers instead: see `_find_turn_start`.
    size, prompts = len(chat.messages), "add_generation_prompt" in chat.template
    asks = [Ask(size)]
    for index, message in enumerate(chat.messages):
        if message["role"] == "assistant" and trained[index]:
            asks += [Ask(index)] if index else []
            asks += [Ask(index, prompt=True)] if prompts else [Ask(index, tail=tail) for tail in ANSWERS]
            asks.append(Ask(index + 1) if index + 1 < size else Ask(size, tail="question"))
    return asks


def check_said(chat: RenderedChat, trained: Sequence[bool], spans: Sequence[Span]) -> None:
    """Raise `TextLeftOut` where a span does not hold its message, or the text not what is answered.

    `spans` are those of `find_assistant_spans`.

    The assistant's turns that nobody trains, and the system's, are left to the template, which may shorten them.
    """
    indices = [index for index, train in enumerate(trained) if train and chat.messages[index]["role"] == "assistant"]
    for index, span in zip(indices, spans, strict=True):
        _check_answer(chat, index, span)
    check_asked(chat)


def check_all_said(chat: RenderedChat, trained: Sequence[bool]) -> None:
    """As `check_said`, where whole conversations are trained: a message may stand anywhere."""
    for index, train in enumerate(trained):
        if train and chat.messages[index]["role"] == "assistant":
            _check_answer(chat, index, (0, len(chat.text())))
    check_asked(chat)


def check_asked(chat: RenderedChat, *, prompt: bool = False) -> None:
    """Raise `TextLeftOut` where what users and tools say does not stand in the text."""
    written = Written(chat.text(prompt=prompt))
    for index, message in enumerate(chat.messages):
        if message["role"] in ASKING_ROLES and not is_written(written, message):
            raise _left_out(chat, index, "the text")


def _check_answer(chat: RenderedChat, index: int, span: Span) -> None:
    # Without control tokens: "end" is no answer that `<|end|>` would hold.
    said = get_control_tokens(chat.tokenizer).unmarked.sub(BETWEEN, chat.text()[slice(*span)])
    missing = missing_from(Written(said), chat.messages[index])
    if missing is not None:
        raise _left_out(chat, index, missing)


def _left_out(chat: RenderedChat, index: int, what: str) -> TextLeftOut:
    return TextLeftOut(
        f"the chat template leaves out {what} of message {index + 1} ({chat.messages[index]['role']})", code="HF142"
    )


def find_message_span(chat: RenderedChat, index: int) -> Span:
    """Find message `index` in `chat.text()`, its header included: (start, stop) character offsets.

    Raises `ChatTemplateError` where the template is not prefix-stable.
    """
    start = _match_prefix(chat, index, chat.text(index)) if index else 0
    chat.forget_before(index)
    return start, _match_prefix(chat, index + 1, chat.text(index + 1))


def _find_turn_span(chat: RenderedChat, index: int, *, prefill: bool) -> Span:
    """Find the text and the end token of assistant message `index`: (start, stop) character offsets."""
    whole, control = chat.text(), get_control_tokens(chat.tokenizer)
    start = _find_turn_start(chat, index, control)
    if not prefill and not chat.messages[index].get("reasoning_content"):
        written = _find_prefill(chat.tokenizer, chat.template)
        start += len(written) if whole.startswith(written, start) else 0
    shared = _find_turn_end(chat, index, control)
    last = None
    for match in control.unmarked.finditer(whole, start, shared):
        last = match
    if last is not None and not whole[last.end() : shared].strip():
        return start, last.end()
    following = control.unmarked.match(whole, shared)  # a conversation's last turn may end otherwise than the others
    if following is None:
        raise ChatTemplateError("the chat template ends no assistant turn with a token of the tokenizer", code="HF143")
    return start, following.end()


def _find_prefill(tokenizer: PreTrainedTokenizerFast, template: str) -> str:
    """Find the empty block of thoughts that a template writes between its generation prompt and an answer; often "".

    "<think>\\n\\n</think>\\n\\n" under Qwen3's: who serves the model without thoughts writes it, not the model.
    """
    # Not all that stands there: the `<|channel|>final<|message|>` of gpt-oss is for the model to say.
    known = _prefills.setdefault(tokenizer, {})
    if template not in known:
        question: Message = {"role": "user", "content": "A"}
        chat = RenderedChat(tokenizer, template, [question])
        try:
            prompt = chat.text(prompt=True)
            one, other = (chat.text(tail=tail) for tail in ANSWERS)
        except ChatTemplateError:
            prompt = one = other = ""
        shared = one[: _count_common_characters(one, other)]
        written = shared[len(prompt) :] if prompt and shared.startswith(prompt) else ""
        known[template] = written if EMPTY_THOUGHTS.fullmatch(written) else ""
    return known[template]


def _find_turn_end(chat: RenderedChat, index: int, control: ControlTokens) -> int:
    """Find the offset behind assistant message `index`, without what the template adds at the end of a conversation."""
    whole, count = chat.text(), index + 1
    if count < len(chat.messages):
        return _match_prefix(chat, count, chat.text(count))
    try:
        going_on = chat.text(tail="question")
    except ChatTemplateError:
        return len(whole)
    shared = _measure_common_prefix(whole, going_on, control)
    return shared if not control.unmarked.sub("", whole[shared:]).strip() else len(whole)


def _find_turn_start(chat: RenderedChat, index: int, control: ControlTokens) -> int:
    """Find the offset behind the generation prompt of assistant message `index`."""
    whole = chat.text()
    before = _match_prefix(chat, index, _render_prefix(chat, index)) if index else 0
    try:
        asked = chat.text(index, prompt=True)
    except ChatTemplateError:  # nothing to answer yet, such as an opening by the assistant
        asked = ""
    if len(asked) > before:
        return max(before, _measure_common_prefix(asked, whole, control))
    # The template has no generation prompt: the header is what two different answers have in common.
    one, other = (chat.text(index, tail=tail) for tail in ANSWERS)
    if one == other:
        raise TextLeftOut("the chat template writes the same whatever the assistant says", code="HF142")
    return max(before, _measure_common_prefix(one[: _count_common_characters(one, other)], whole, control))


def _render_prefix(chat: RenderedChat, index: int) -> str:
    try:
        return chat.text(index)
    except ChatTemplateError:  # some templates want a user message before anything
        return ""


def _match_prefix(chat: RenderedChat, count: int, text: str) -> int:
    """Count the characters of `text` (the first `count` messages) that start the whole conversation too.

    Raises `ChatTemplateError` where more than a closing token differs: the template is not prefix-stable.
    """
    # A template that closes its last message alone with a token is stable: of "Assistant: Yes.<|eos|>", all but the
    # token starts "Assistant: Yes.User: C<|eos|>" too. One that strips the reasoning of earlier turns is not.
    whole, control = chat.text(), get_control_tokens(chat.tokenizer)
    if whole.startswith(text):
        return len(text)
    shared = _measure_common_prefix(text, whole, control)
    if control.unmarked.sub("", text[shared:]).strip():
        role = chat.messages[count - 1]["role"]
        raise ChatTemplateError(
            f"the chat template is not prefix-stable: it writes message {count} ({role}), or one before it, otherwise"
            " once later messages follow, so that what is trained would not be what is generated",
            code="HF144",
        )
    return shared


def _measure_common_prefix(text: str, whole: str, control: ControlTokens) -> int:
    """Measure the common prefix up to a border of a control token, so that none is cut in two."""
    # "a<|eos|>" and "a<|end|>" share the characters "a<|e", and the common prefix is "a".
    if whole.startswith(text):
        return len(text)
    limit, position = _count_common_characters(text, whole), 0
    for match in control.unmarked.finditer(text):
        if match.start() <= limit:
            position = match.start()
        if match.end() <= limit:
            position = match.end()
    return position


def _count_common_characters(one: str, other: str) -> int:
    low, high = 0, min(len(one), len(other))
    while low < high:  # by halves: Python compares long strings a thousand times faster than their characters
        middle = (low + high + 1) // 2
        low, high = (middle, high) if one[low:middle] == other[low:middle] else (low, middle - 1)
    return low
