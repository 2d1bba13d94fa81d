"""What a chat template writes around messages, found by rendering, and a template in Go that writes the same."""

from __future__ import annotations

import json
from dataclasses import dataclass
from typing import Any

from transformers import PreTrainedTokenizerFast

from hf_finetune.chat.assistant_mask import ChatTemplateError, RenderedChat
from hf_finetune.chat.dates import reads_date
from hf_finetune.chat.template import get_default_template
from hf_finetune.errors import ModelError, Problem

# Texts that no template writes by itself.
SYSTEM, USER, ANSWER, AGAIN = "Qsystem0", "Quser1", "Qanswer2", "Quser3"
REMEDY = "export --to gguf, whose template llama.cpp renders itself, or train with another data.chat_template"


@dataclass(frozen=True, slots=True)
class Shape:
    """A template that writes the same around each message of a role."""

    lead: str
    """Before the first message, where that is a user's."""
    before_user: str
    after_user: str
    before_answer: str
    after_answer: str
    prompt: str
    """Behind the last message."""
    lead_system: str | None
    """Before a system message, which is the first; None where the template refuses one."""
    after_system: str
    """Up to the text of the user behind it."""
    empty_system: str
    """`lead_system` and `after_system` of a system message without text."""
    trims_system: bool
    trims_user: bool
    trims_answer: bool


class NoShape(Exception):
    """The template does something else as well: what."""


def find_shape(tokenizer: PreTrainedTokenizerFast) -> Shape:
    """Find what the template of `tokenizer` writes around messages.

    Raises `ModelError` for one that asks what day it is, or does not write the same around each message of a role.
    """
    if reads_date(get_default_template(tokenizer)):
        raise _refuse("it asks what day it is")
    try:
        return _find_shape(tokenizer)
    except (NoShape, ChatTemplateError) as problem:
        raise _refuse(str(problem)) from problem


def _find_shape(tokenizer: PreTrainedTokenizerFast) -> Shape:
    answered = _render(tokenizer, USER, ANSWER)
    lead, middle, after_answer = _cut(answered, USER, ANSWER)
    _, _, between, after_user = _cut(_render(tokenizer, USER, ANSWER, AGAIN), USER, ANSWER, AGAIN)
    before_user = _without(between, after_answer)
    before_answer = middle.removeprefix(after_user)
    asked = _render(tokenizer, USER, prompt=True)
    prompt = asked.removeprefix(lead + USER + after_user)
    if after_user + before_answer != middle or lead + USER + after_user + prompt != asked:
        raise NoShape("it writes a message otherwise where others follow")
    # Gemma writes the system's text into the turn of the user: then `after_system` is not that turn's beginning.
    system, after, empty = _find_system(tokenizer, after_user)
    # Where a system message is refused, or left out, nothing of it is written.
    trims_system = system is not None and " " not in _cut_one(_render(tokenizer, USER, system=" x"), system, "x")
    return Shape(
        lead, before_user, after_user, before_answer, after_answer, prompt, system, after, empty,
        trims_system,
        f" {USER}" not in _render(tokenizer, f" {USER}"),
        f" {ANSWER}" not in _render(tokenizer, USER, f" {ANSWER}"),
    )  # fmt: skip


def _find_system(tokenizer: PreTrainedTokenizerFast, after_user: str) -> tuple[str | None, str, str]:
    """What is written before and behind the text of a system message, and for one without text."""
    try:
        rendered = _render(tokenizer, USER, system=SYSTEM)
    except ChatTemplateError:
        return None, "", ""
    lead, after, _ = _cut(rendered, SYSTEM, USER)
    empty, _ = _cut(_render(tokenizer, USER, system=""), USER)
    return lead, after, empty


def _render(tokenizer: PreTrainedTokenizerFast, *turns: str, system: str | None = None, prompt: bool = False) -> str:
    roles = ("user", "assistant")
    messages: list[dict[str, Any]] = [] if system is None else [{"role": "system", "content": system}]
    messages += [{"role": roles[number % 2], "content": text} for number, text in enumerate(turns)]
    return RenderedChat(tokenizer, get_default_template(tokenizer), messages).text(prompt=prompt)


def _cut(text: str, *marks: str) -> list[str]:
    """What stands before, between and behind `marks`, each of which stands in `text` once."""
    parts = []
    for mark in marks:
        if text.count(mark) != 1:
            raise NoShape("it leaves the text of a message out, or writes it more than once")
        before, _, text = text.partition(mark)
        parts.append(before)
    return [*parts, text]


def _cut_one(text: str, before: str, mark: str) -> str:
    return text.removeprefix(before).partition(mark)[0]


def _without(text: str, start: str) -> str:
    if not text.startswith(start):
        raise NoShape("it writes an answer otherwise where others follow")
    return text.removeprefix(start)


def _refuse(why: str) -> ModelError:
    what = f"the chat template cannot be said in Go, as Ollama has templates: {why}"
    return ModelError(Problem(what, REMEDY, code="HF972"))


def write_go(shape: Shape, begin: str) -> str:
    """Write the template in Go. `begin` is a begin token that Ollama writes itself, and the template therefore not."""
    lines = [_TRIM] if shape.trims_system or shape.trims_user or shape.trims_answer else []
    lead, empty = shape.lead.removeprefix(begin), shape.empty_system.removeprefix(begin)
    # A system message writes all up to the text of the user behind it.
    lines += ["{{- $begun := false }}{{- range $number, $message := .Messages }}"]
    branches = []
    if shape.lead_system is not None:
        filled = (
            f"{_quote(shape.lead_system.removeprefix(begin))}{_text(shape.trims_system)}{_quote(shape.after_system)}"
        )
        branches.append(
            '(and (eq .Role "system") (eq $number 0)) }}{{- $begun = true }}'
            f"{{{{- if .Content }}}}{filled}{{{{- else }}}}{_quote(empty)}{{{{- end }}}}"
        )
    first = f"{{{{- if eq $number 0 }}}}{_quote(lead)}{{{{- else }}}}{_quote(shape.before_user)}{{{{- end }}}}"
    branches.append(
        f'(eq .Role "user") }}}}{{{{- if $begun }}}}{{{{- $begun = false }}}}{{{{- else }}}}{first}{{{{- end }}}}'
        f"{_text(shape.trims_user)}{_quote(shape.after_user)}"
    )
    answer = f"{_quote(shape.before_answer)}{_text(shape.trims_answer)}{_quote(shape.after_answer)}"
    branches.append(f'(and (eq .Role "assistant") (not $begun) (gt $number 0)) }}}}{answer}')
    lines += [f"{{{{- {'else ' if number else ''}if {branch}" for number, branch in enumerate(branches)]
    # Go templates have no word for a refusal; there is no such letter, and Ollama answers with an error.
    lines += ['{{- else }}{{- index "a message of this role has no place here" -1 }}{{- end }}', "{{- end }}"]
    return "\n".join(lines) + _quote(shape.prompt)


# Ollama's templates have no function for it. A byte at a time: white space of ASCII is never a part of another letter.
_TRIM = "\n".join(
    [
        '{{- define "trim" }}{{- $text := . }}',
        "{{- range $place := len . }}{{- $letter := slice $text 0 1 }}",
        "{{- if %s }}{{- $text = slice $text 1 }}{{- else }}{{- break }}{{- end }}{{- end }}",
        "{{- range $place := len $text }}{{- $letter := slice $text (len (slice $text 1)) }}",
        "{{- if %s }}{{- $text = slice $text 0 (len (slice $text 1)) }}{{- else }}{{- break }}{{- end }}{{- end }}",
        "{{- $text }}{{- end }}",
    ]
).replace("%s", 'eq $letter " " "\\n" "\\t" "\\r" "\\u000b" "\\f"')


def _text(trims: bool) -> str:
    return '{{- template "trim" .Content }}' if trims else "{{- .Content }}"


def _quote(text: str) -> str:
    """A text as Go has it; nothing for none."""
    return f"{{{{- {json.dumps(text, ensure_ascii=False)} }}}}" if text else ""
