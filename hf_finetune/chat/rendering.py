"""Chat templates are untrusted programs that come with models: they are rendered by a worker process, within limits.

The sandbox of transformers keeps a template from files, attributes and other code, but not from endless loops or huge
texts. Here one worker for each process renders whole batches; templates that ship with this package, and those whose
hash the run file names (`data.trust_chat_template`), are rendered in the process itself.

A conversation on which the worker dies is tried once more, alone, in a new one, and then it is that conversation's
fault: a worker may have been killed by somebody else.
"""

from __future__ import annotations

import atexit
import functools
import hashlib
import json
import os
import secrets
import threading
import time
from collections.abc import Container, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from importlib.resources import files
from typing import Any

from jinja2.exceptions import (
    FilterArgumentError,
    SecurityError,
    TemplateError,
    TemplateRuntimeError,
    TemplateSyntaxError,
    UndefinedError,
)
from transformers.utils import chat_template_utils

from hf_finetune.chat import worker
from hf_finetune.chat.slow_templates import SLOW_SECONDS, SlowTexts, say_progress
from hf_finetune.chat.worker_process import WorkerDied, WorkerProcess, explain_no_start, start_worker
from hf_finetune.errors import ModelError, Problem

KEY = "data.chat_template"
BATCH_CHARACTERS = 2**20
"""Of JSON that the worker is sent at once, about; or one conversation."""
BYTES_PER_CHARACTER = 6
"""JSON writes a character of control as \\u0000."""
MAX_BYTES_BESIDES = 100_000
STARTS = 2

Message = dict[str, Any]
_REFUSALS: dict[str, type[Exception]] = {
    **{each.__name__: each for each in (TemplateError, UndefinedError, SecurityError, FilterArgumentError)},
    **{each.__name__: each for each in (TypeError, ValueError, KeyError, AttributeError, IndexError)},
}


class TemplateLimitError(ModelError):
    """A template exceeded a limit; `what` says which, as the rest of a sentence about it.

    With `trusted` as the remedy, where it would then be rendered.
    """

    def __init__(self, what: str, template: str, *, trusted: bool = True) -> None:
        self.what, self.code = what, "HF131"
        self.remedy = "look into it, since a template is a program that came with the model"
        if trusted:
            self.remedy += f", or set data.trust_chat_template: {find_origin(template)} if it is yours"
        super().__init__(Problem(f"the chat template {what} on one conversation", self.remedy, key=KEY, code=self.code))


class TemplateFailure(TemplateRuntimeError):
    """An error of Python itself, by its name: what a template computes cannot be computed."""


@dataclass(frozen=True, slots=True)
class Ask:
    """What is rendered of a conversation: its first `count` messages, then those named by `tail`."""

    count: int
    prompt: bool = False
    """With the generation prompt."""
    tail: str = ""

    def write(self) -> list[Any]:
        """As the worker reads it."""
        return [self.count, self.prompt, TAILS[self.tail]]


TAILS: dict[str, list[Message]] = {
    "": [],
    "question": [{"role": "user", "content": "A"}],
    "answer": [{"role": "assistant", "content": "A"}],
    "other answer": [{"role": "assistant", "content": "b"}],
}


@dataclass(frozen=True, slots=True)
class TemplateFacts:
    """What a template reads."""

    variables: tuple[str, ...]
    """Names that whoever renders it may give."""
    asks_date: bool
    tested: tuple[str, ...]
    """Strings that it compares texts with, or looks for in them."""


@dataclass
class _State:
    """The worker of this process."""

    process: WorkerProcess | None = None
    lock: threading.Lock = field(default_factory=threading.Lock)


_state = _State()
_trusted: set[str] = set()
_slow_texts = SlowTexts()
_origins: dict[str, str] = {}
"""Hashes of templates as they were loaded, by those of what was made of them."""


def hash_template(template: str) -> str:
    """The SHA-256 of a template, as `data.trust_chat_template` takes it."""
    return hashlib.sha256(template.encode("utf-8", "surrogatepass")).hexdigest()


def trust_template(template: str) -> None:
    """Render a template, and what is made of it, in this process and without limits from now on."""
    _trusted.add(hash_template(template))


def note_origin(template: str, origin: str) -> str:
    """Return `template`, which this process has made of `origin`, and is trusted as far as that one is."""
    digest, root = hash_template(template), find_origin(origin)
    if digest != root:
        _origins[digest] = root
    return template


def find_origin(template: str) -> str:
    """The hash of a template as it was loaded."""
    digest = hash_template(template)
    return _origins.get(digest, digest)


@functools.cache
def _hash_shipped() -> frozenset[str]:
    templates = files("hf_finetune.chat").joinpath("templates").iterdir()
    return frozenset(hash_template(each.read_text("utf-8")) for each in templates if each.name.endswith(".jinja"))


@functools.lru_cache(maxsize=64)
def _is_shipped(template: str) -> bool:
    return hash_template(template) in _hash_shipped()


def is_trusted(template: str) -> bool:
    """Whether a template ships with this package, or the user has named its hash."""
    return _is_shipped(template) or (bool(_trusted) and find_origin(template) in _trusted)


def render_rows(template: str, given: dict[str, Any], rows: Sequence[dict[str, Any]]) -> list[list[str | Exception]]:
    """Render what is asked of each of `rows`: texts, or what is to be raised in their place.

    A row has `messages`, `tools` and `asks` as `Ask.write`; `given` are the variables for all of them. What is to be
    raised is a `TemplateLimitError`, or what jinja2 or Python has raised. Raises `MachineError` where no worker starts.
    """
    known = [_slow_texts.find(template, given, row) for row in rows]
    new = [_leave_out(row, found) for row, found in zip(rows, known, strict=True)]
    answers = iter(_render_new(template, given, [row for row in new if row["asks"]]))
    results = []
    for row, found in zip(new, known, strict=True):
        answered = iter(next(answers)) if row["asks"] else iter(())
        size = len(found) + len(row["asks"])
        results.append([found[number] if number in found else next(answered) for number in range(size)])
    return [[_read_result(each, template) for each in of_row] for of_row in results]


def _leave_out(row: dict[str, Any], found: Container[int]) -> dict[str, Any]:
    """A row without the asks whose numbers are `found`."""
    return {**row, "asks": [ask for number, ask in enumerate(row["asks"]) if number not in found]} if found else row


def _render_new(template: str, given: dict[str, Any], rows: Sequence[dict[str, Any]]) -> list[list[Any]]:
    """Render rows of which nothing is known: a result for each of their asks, as the worker gives it."""
    began = time.monotonic()
    answers: Sequence[Any]
    with say_progress():
        if is_trusted(template):
            answers = [worker.attempt(functools.partial(worker.render_row, template, given, row)) for row in rows]
        else:
            answers = _render_in_worker({"template": template, "given": given}, rows)
    results = [_spread(answer, len(row["asks"])) for row, answer in zip(rows, answers, strict=True)]
    if time.monotonic() - began > SLOW_SECONDS * sum(map(len, results)):
        for row, of_row in zip(rows, results, strict=True):
            if not any(map(_exceeds_limit, of_row)):  # it may have been the machine's fault
                _slow_texts.keep(template, given, row, of_row)
    return results


def _spread(answer: Any, asked: int) -> list[Any]:
    """The results of a row; what came from another process is in any form, and then the answer to each ask."""
    return answer if isinstance(answer, list) and len(answer) == asked else [answer] * asked


def _exceeds_limit(result: Any) -> bool:
    return isinstance(result, dict) and result.get("kind") in (worker.LIMIT, worker.MEMORY, worker.CRASH)


@functools.lru_cache(maxsize=64)
def describe_template(template: str) -> TemplateFacts:
    """Find out what a template reads.

    Raises jinja2's `TemplateSyntaxError` where it is none, `ModelError` where it is nested too deep, and
    `TemplateLimitError`: jinja2 computes constants already as it compiles.
    """
    if is_trusted(template):
        answer = worker.attempt(functools.partial(worker.describe, template))
    else:
        [answer] = _exchange([json.dumps({"describe": template})], [], [_limit_answer(len(template))])
    if "kind" in answer:
        refusal = _read_refusal(answer, template)
        # What else is raised, as over thousands of brackets, is Python's own: trust does not mend it.
        if isinstance(refusal, TemplateSyntaxError | TemplateLimitError):
            raise refusal
        what = f"the chat template cannot be compiled ({refusal})"
        raise ModelError(Problem(what, "mend it, or name another data.chat_template", key=KEY, code="HF132"))
    return TemplateFacts(tuple(answer["variables"]), answer["date"], tuple(answer["tested"]))


def _render_in_worker(first: dict[str, Any], rows: Sequence[dict[str, Any]]) -> list[Any]:
    written = [worker.attempt(functools.partial(json.dumps, row, ensure_ascii=False)) for row in rows]
    sent = [number for number, line in enumerate(written) if isinstance(line, str)]
    limits = [len(rows[number]["asks"]) * _limit_answer(len(written[number])) for number in sent]
    answers = _exchange([json.dumps(first)], [written[number] for number in sent], limits)
    for number, answer in zip(sent, answers, strict=True):
        written[number] = answer
    return written


def _limit_answer(characters: int) -> int:
    """Bytes of one text of a conversation of so many characters of JSON, at most."""
    most = worker.MAX_OUTPUT_CHARACTERS + worker.MAX_INPUT_COPIES * characters
    return MAX_BYTES_BESIDES + BYTES_PER_CHARACTER * most


def _exchange(first: list[str], lines: Sequence[str], limits: Sequence[int]) -> list[Any]:
    """Send `lines` to the worker, in batches under the line `first`, and return an answer for each.

    `limits`: bytes of each answer at most. Without lines there is one answer, that to `first`.
    """
    answers: list[Any] = []
    suspect, failed_starts = -1, 0
    with _state.lock:
        while len(answers) < len(limits):
            try:
                for answer in _try_batch([*first, *_take_batch(lines, len(answers))], limits[len(answers) :]):
                    answers.append(answer)
            except WorkerDied as death:
                if not death.started:
                    failed_starts += 1
                    if failed_starts == STARTS:
                        raise explain_no_start(death.what) from death
                elif death.exceeded or suspect == len(answers):
                    answers.append({"kind": worker.LIMIT if death.exceeded else worker.CRASH, "what": death.what})
                else:
                    suspect = len(answers)
    return answers


def _take_batch(lines: Sequence[str], start: int) -> Sequence[str]:
    """Take lines from `start` on, at least one of them if there is one, of about a million characters."""
    size, stop = 0, start
    while stop < len(lines) and (size < BATCH_CHARACTERS):
        size += len(lines[stop])
        stop += 1
    return lines[start:stop]


def _try_batch(lines: Sequence[str], limits: Sequence[int]) -> Iterator[Any]:
    """Yield the answers to a batch, up to one for which memory ran out. Raises `WorkerDied`, which is replaced then."""
    process = _state.process = _state.process or start_worker()
    whole = False
    try:
        process.send(lines)
        for limit in limits[: max(1, len(lines) - 1)]:
            answer = process.receive(limit)
            yield answer
            if _ran_out_of_memory(answer):  # what that leaves behind is not known
                return
        whole = True
    finally:
        if whole:
            process.rest()
        else:  # the answers that are still to come would be taken for those to the next batch
            _state.process = None
            process.end()


def _ran_out_of_memory(answer: Any) -> bool:
    results = answer if isinstance(answer, list) else [answer]
    return any(isinstance(each, dict) and each.get("kind") == worker.MEMORY for each in results)


def _read_result(result: Any, template: str) -> str | Exception:
    """Read a result, which is what came from another process: its form is not taken on trust."""
    return result if isinstance(result, str) else _read_refusal(result, template)


def _read_refusal(refusal: Any, template: str) -> Exception:
    told = refusal if isinstance(refusal, dict) else {}
    what, kind, line = str(told.get("what")), str(told.get("kind")), told.get("line")
    if kind == worker.MEMORY and is_trusted(template):
        return TemplateLimitError("takes more memory than this machine gives", template, trusted=False)
    if kind in (worker.LIMIT, worker.MEMORY, worker.CRASH):
        return TemplateLimitError(what, template, trusted=kind != worker.CRASH)
    if kind == "TemplateSyntaxError":
        return TemplateSyntaxError(what, line if isinstance(line, int) else 1)
    return _REFUSALS[kind](what) if kind in _REFUSALS else TemplateFailure(f"{kind}: {what}")


class RemoteTemplate:
    """What transformers takes for a compiled template, and for its environment: rendered by the worker."""

    def __init__(self, source: str) -> None:
        self.source = source
        self._generated: list[tuple[int, int]] | None = None

    def render(self, messages: Sequence[Message] = (), tools: Any = None, **given: Any) -> str:
        """Render, or raise as jinja2 does; also `TemplateLimitError`."""
        return self._render("", messages, tools, given)

    @property
    def environment(self) -> RemoteTemplate:
        """Itself, which follows what is generated."""
        return self

    @contextmanager
    def activate_tracker(self, blocks: list[str], generated: list[tuple[int, int]]) -> Iterator[None]:
        """Within the block `generate` adds to `generated` where the text of each `{% generation %}` begins and ends."""
        self._generated = generated
        try:
            yield
        finally:
            self._generated = None

    def generate(self, messages: Sequence[Message] = (), tools: Any = None, **given: Any) -> Iterator[str]:
        """Render the text in one piece; raises as `render`."""
        mark = secrets.token_hex(16)  # which no text of a row can hold
        pieces = self._render(mark, messages, tools, given).split(mark)
        text = ""
        for number, piece in enumerate(pieces):
            if number % 2 and self._generated is not None:
                self._generated.append((len(text), len(text) + len(piece)))
            text += piece
        yield text

    def _render(self, mark: str, messages: Sequence[Message], tools: Any, given: dict[str, Any]) -> str:
        prompt = bool(given.pop("add_generation_prompt", False))
        row = {"messages": list(messages), "tools": tools, "given": given, "asks": [Ask(len(messages), prompt).write()]}
        [[result]] = render_rows(self.source, {}, [{**row, "mark": mark} if mark else row])
        if isinstance(result, Exception):
            raise result
        return result


def install_sandbox() -> None:
    """Make transformers render every chat template by the worker, whoever renders one."""
    # A private name of transformers 5.23, looked up at each call (`render_jinja_template`); a test renders through it.
    chat_template_utils._compile_jinja_template = RemoteTemplate  # type: ignore[assignment]


def end_worker() -> None:
    """End the worker of this process, if there is one; another starts when it is needed."""
    process, _state.process = _state.process, None
    if process is not None:
        process.end()


def _forget_worker() -> None:
    """In a forked process: the worker is that of another, whose pipes are left to it alone."""
    global _state
    process, _state = _state.process, _State()
    if process is not None:
        process.leave()


atexit.register(end_worker)
if hasattr(os, "register_at_fork"):  # not on Windows, which forks no process
    os.register_at_fork(after_in_child=_forget_worker)
