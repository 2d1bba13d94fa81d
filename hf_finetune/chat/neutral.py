"""Whatever a template does to text, a row's control tokens are those of the same conversation with neutral texts.

Marks keep the text of a row apart from control tokens (`special_tokens`), but a template may take them off: one that
drops all but ASCII, strips tags, lowers or joins what it is given. So each conversation is compared with one of the
same shape that says "x": what its control tokens are, in order, must not depend on what is said. Many rows have one
shape, which is rendered once.

A template may look into texts by design, as Qwen3's does for `<tool_response>`. Where the two differ, they are compared
once more, with what the template looks for left in the neutral texts. If they are the same then, the template means it:
that is said once, with the words.
"""

from __future__ import annotations

import json
import logging
import re
from collections import Counter
from collections.abc import Mapping, Sequence
from typing import Any
from weakref import WeakKeyDictionary

from transformers import PreTrainedTokenizerFast

from hf_finetune.chat.assistant_mask import ChatTemplateError, RenderedChat, render_chats
from hf_finetune.chat.rendering import Ask, Message, TemplateLimitError, describe_template
from hf_finetune.chat.special_tokens import MARK, get_control_tokens, iterate_strings

NEUTRAL = "x"
# What templates go by in a message, a tool or a JSON schema, and not what somebody has called a parameter.
_KEYS = frozenset(
    [
        *("role", "content", "name", "type", "text", "id", "function", "function_call", "tool_calls", "tool_call_id"),
        *("arguments", "reasoning_content", "thinking", "reasoning", "tools", "parameters", "properties", "required"),
        *("items", "enum", "description", "default", "title", "return", "anyOf", "oneOf", "allOf", "$ref", "$defs"),
        *("additionalProperties", "format", "minimum", "maximum", "nullable", "strict", "image", "image_url", "url"),
    ]
)
_ROLES = frozenset(["system", "user", "assistant", "tool", "function", "developer", "model", "ipython"])
_NAMED = frozenset(["arguments", "properties", "$defs"])
"""Their keys are names that somebody gave."""
_IDS = frozenset(["id", "tool_call_id"])
"""Mistral's template wants nine characters."""
_QUOTED = re.compile(r"'([^'\n]*)'|\"([^\"\n]*)\"|\.(\w+)")
MAX_STRUCTURES = 10_000

Fault = ChatTemplateError | TemplateLimitError
Structure = tuple[str, ...]
"""The control tokens of a text, in order."""

logger = logging.getLogger(__name__)

_said: set[tuple[str, ...]] = set()
_known: WeakKeyDictionary[PreTrainedTokenizerFast, dict[tuple[str, str], Structure | None]] = WeakKeyDictionary()


class TextBecomesControl(ChatTemplateError):
    """A text of the row becomes a control token, or makes one of the template's disappear."""

    def __init__(self, what: str) -> None:
        super().__init__(what, code="HF146")


def check_control_tokens(chats: Sequence[RenderedChat], *, prompt: bool = False) -> list[Fault | None]:
    """Find the conversations, all of one tokenizer and template, in which text has become a control token.

    Returns one error or None for each; None too for those that the template refuses. A limit that it exceeds on one
    with neutral texts is an error too. With `prompt` their prompts are compared.
    """
    rendered = [chat.results.get(Ask(len(chat.messages), prompt)) for chat in chats]
    known = _known.setdefault(chats[0].tokenizer, {}) if chats else {}
    neutral = [_neutralize_chat(chat, re.compile(r"(?!)")) for chat in chats]
    _fill_structures(known, neutral, prompt)
    faults: list[Fault | None] = []
    for chat, text, other in zip(chats, rendered, neutral, strict=True):
        if not isinstance(text, str) or (structure := read_structure(chat, text)) == known[_write_key(other, prompt)]:
            faults.append(None)
        else:
            faults.append(_compare_again(chat, structure, prompt=prompt))
    return faults


def read_structure(chat: RenderedChat, text: str) -> Structure:
    """The control tokens of a rendered text, in order."""
    return tuple(match[0] for match in get_control_tokens(chat.tokenizer).unmarked.finditer(text))


def _fill_structures(
    known: dict[tuple[str, str], Structure | None], neutral: Sequence[RenderedChat], prompt: bool
) -> None:
    """Render the neutral conversations that are not known yet, in one exchange; None for what is refused."""
    if len(known) > MAX_STRUCTURES:
        known.clear()
    new = {key: chat for chat in neutral if (key := _write_key(chat, prompt)) not in known}
    render_chats(list(new.values()), [[Ask(len(chat.messages), prompt)] for chat in new.values()])
    for key, chat in new.items():
        text = chat.results[Ask(len(chat.messages), prompt)]
        known[key] = read_structure(chat, text) if isinstance(text, str) else None


def _write_key(chat: RenderedChat, prompt: bool) -> tuple[str, str]:
    return chat.template, json.dumps([chat.messages, chat.tools, prompt])


def _compare_again(chat: RenderedChat, structure: Structure, *, prompt: bool) -> Fault | None:
    """Compare with texts that hold what the template looks for; the error where they differ still."""
    try:
        tested = [text for text in describe_template(chat.template).tested if len(text) > 1]
        looked_for = re.compile("|".join(map(re.escape, sorted(tested, key=len, reverse=True))) or r"(?!)")
        expected = read_structure(chat, _neutralize_chat(chat, looked_for).text(prompt=prompt))
    except ChatTemplateError:
        what = "whether text becomes a control token cannot be seen: the chat template refuses it with neutral texts"
        return TextBecomesControl(what)
    except TemplateLimitError as problem:
        return problem
    if structure != expected:
        return TextBecomesControl(_describe(structure, expected))
    _say_once(chat, sorted({found for text in iterate_strings(chat.messages) for found in looked_for.findall(text)}))
    return None


def _say_once(chat: RenderedChat, words: Sequence[str]) -> None:
    """Warn of words of a text for which the template writes other control tokens, as its author wanted it."""
    said = (chat.template, *words)
    if said not in _said:
        _said.add(said)
        shown = ", ".join(json.dumps(word, ensure_ascii=False) for word in words)
        logger.warning(
            "the chat template writes other control tokens where a text has %s, which it looks for",
            shown,
            extra={"code": "HF148"},
        )


def _describe(structure: Structure, expected: Structure) -> str:
    here, there = Counter(structure), Counter(expected)
    for token in sorted(here.keys() | there.keys()):
        if here[token] != there[token]:
            became = "makes a control token of text" if here[token] > there[token] else "takes text for a control token"
            return f"the chat template {became}: {token} {here[token]} times instead of {there[token]}"
    return "the chat template puts control tokens in another order for what the texts say"


def _neutralize_chat(chat: RenderedChat, looked_for: re.Pattern[str]) -> RenderedChat:
    """The same conversation with neutral texts, in which only `looked_for` is left."""
    neutral = _Neutralizer(_find_words(chat.template), looked_for)
    messages: list[Message] = [neutral.replace_values(message) for message in chat.messages]
    return RenderedChat(chat.tokenizer, chat.template, messages, neutral.replace(chat.tools))


_words: dict[str, frozenset[str]] = {}


def _find_words(template: str) -> frozenset[str]:
    """The strings and attributes that a template names, by a look at its text alone."""
    if template not in _words:
        if len(_words) > 100:
            _words.clear()
        _words[template] = frozenset(word for found in _QUOTED.findall(template) for word in found if word)
    return _words[template]


class _Neutralizer:
    """Replaces texts, and the names that somebody gave, by neutral ones of the same shape."""

    def __init__(self, words: frozenset[str], looked_for: re.Pattern[str]) -> None:
        self.words, self.looked_for = words, looked_for

    def replace(self, value: Any, key: str = "") -> Any:
        """Replace the strings inside a JSON-like value that stands under `key`."""
        if isinstance(value, str):
            return self._replace_text(value, key)
        if isinstance(value, Mapping):
            return self.replace_values(value, named=key in _NAMED)
        if isinstance(value, list):
            return [self.replace(each, key) for each in value]
        if isinstance(value, bool) or value is None:
            return value
        return type(value)(bool(value))  # 0 is false for a template

    def replace_values(self, value: Mapping[str, Any], *, named: bool = False) -> dict[str, Any]:
        """Replace the values of an object, and the keys that a template does not go by."""
        replaced = {}
        for number, (key, inner) in enumerate(value.items()):
            known = key in self.words or (not named and key in _KEYS)
            replaced[key if known else f"{NEUTRAL}{number}"] = self.replace(inner, key)
        return replaced

    def _replace_text(self, text: str, key: str) -> str:
        if (key == "role" and text in _ROLES) or (key in ("role", "type") and text in self.words):
            return text
        if key in _IDS:
            return NEUTRAL * min(len(text.replace(MARK, "")), 100)
        if key == "arguments" and (decoded := _decode(text)) is not None:
            return json.dumps(self.replace(decoded, key))
        pieces, end = [], 0
        for found in self.looked_for.finditer(text):
            pieces += [_replace_plain(text[end : found.start()]), found[0]]
            end = found.end()
        return "".join([*pieces, _replace_plain(text[end:])])


def _replace_plain(text: str) -> str:
    """A neutral text with the white space at both ends of `text`, and blank where it is."""
    text = text.replace(MARK, "")
    said = text.strip()
    if not said:
        return text
    start = text.index(said[0])
    return f"{text[:start]}{NEUTRAL}{text[start + len(said) :]}"


def _decode(text: str) -> dict[str, Any] | None:
    """Arguments of a tool call that are written as JSON."""
    try:
        decoded = json.loads(text.replace(MARK, ""))
    except (ValueError, RecursionError):
        return None
    return decoded if isinstance(decoded, dict) else None
