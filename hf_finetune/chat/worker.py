"""The program that renders chat templates of others: in a process of its own, within limits that hold for C code too.

`worker_process` runs this file as a script, with nothing but the standard library and jinja2, so that it starts in a
tenth of a second. Frames come on standard input and go to standard output: 8 bytes of length, then lines of JSON.

    {"template": "...", "given": {"bos_token": "<s>"}}      one line for the batch, then one line for each conversation:
    {"messages": [...], "tools": null, "asks": [[2, true, []], [3, false, []]]}

A conversation is answered by a frame, a list with the result of each of its asks: the text that the template writes for
the first 2 messages and a generation prompt, then that for the first 3; or how it was refused. An empty frame says that
work goes on. A `mark` of a conversation is written before and behind what its template has for generated. What
transformers gives to templates is given here in the same words
(https://github.com/huggingface/transformers/blob/v5.23.0/src/transformers/utils/chat_template_utils.py).
"""

from __future__ import annotations

import functools
import json
import signal
import sys
import time
from collections.abc import Callable, Iterator
from contextvars import ContextVar
from datetime import datetime
from typing import Any, BinaryIO

from jinja2 import Template, meta, nodes
from jinja2.exceptions import SecurityError, TemplateError
from jinja2.ext import Extension, loopcontrols
from jinja2.sandbox import ImmutableSandboxedEnvironment
from jinja2.utils import Namespace

try:
    import resource
except ImportError:  # Windows: the parent's clock alone ends a template there
    resource = None  # type: ignore[assignment]

MAX_MEMORY_GROWTH = 256 * 2**20
"""Bytes of address space that a template may take, besides `MEMORY_PER_BYTE` for each byte that it is given."""
MEMORY_PER_BYTE = 8
PROCESSOR_SECONDS = 2
"""Whole seconds, as the system counts them: a template has between one and two. The parent's clock comes first."""
MAX_OUTPUT_CHARACTERS = 1_000_000
"""Characters that a template may write, besides four times those that it is given."""
MAX_INPUT_COPIES = 4
SECONDS_OF_SILENCE = 0.1

LIMIT, MEMORY, CRASH = "limit", "memory", "crash"
"""Kinds of refusals where a limit was exceeded, or the process ended; others are names of exceptions."""
REASONING_FIELDS = ("reasoning_content", "thinking", "reasoning")
DATE_FUNCTION = "strftime_now"
_LOOKS_INTO = frozenset(
    [
        "startswith",
        "endswith",
        "find",
        "rfind",
        "index",
        "rindex",
        "count",
        "split",
        "rsplit",
        "partition",
        "rpartition",
    ]
)

Refusal = dict[str, Any]
"""What was raised: `kind`, `what`, and the `line` of the template."""
Result = str | Refusal


_mark: ContextVar[str] = ContextVar("mark", default="")
"""What stands before and behind the text of a generation block."""


class Generation(Extension):
    """`{% generation %}`: what stands inside is written as it is, or between marks where a row asks for them."""

    tags = {"generation"}  # noqa: RUF012 - jinja2's own way

    def parse(self, parser: Any) -> nodes.Node:
        """Take the block for its content, in a scope of its own."""
        line = next(parser.stream).lineno
        body = parser.parse_statements(("name:endgeneration",), drop_needle=True)
        return nodes.CallBlock(self.call_method("_write"), [], [], body).set_lineno(line)

    def _write(self, caller: Callable[[], str]) -> str:
        mark = _mark.get()
        return f"{mark}{caller()}{mark}"


class TemplateNamespace(Namespace):
    """A namespace that takes no names of Python's own."""

    def __init__(*args: Any, **kwargs: Any) -> None:  # as jinja2's: a template may name a variable `self`
        _refuse_private_names(dict(*args[1:], **kwargs))
        Namespace.__init__(*args, **kwargs)

    def __setitem__(self, name: str, value: Any) -> None:
        _refuse_private_names({name: value})
        super().__setitem__(name, value)


class TemplateDict:
    """`dict` for templates, which reach no attribute of the class by it."""

    def __call__(self, *args: Any, **kwargs: Any) -> dict[Any, Any]:
        """Make a dict."""
        return dict(*args, **kwargs)

    def fromkeys(self, *args: Any) -> dict[Any, Any]:
        """Make a dict of keys."""
        return dict.fromkeys(*args)


def _refuse_private_names(names: dict[str, Any]) -> None:
    if any(str(name).startswith("_") for name in names):
        raise SecurityError("a namespace takes no name that begins with an underscore")


def _raise_exception(message: str) -> None:
    raise TemplateError(message)


def _write_json(
    value: Any, ensure_ascii: bool = False, indent: Any = None, separators: Any = None, sort_keys: bool = False
) -> str:
    return json.dumps(value, ensure_ascii=ensure_ascii, indent=indent, separators=separators, sort_keys=sort_keys)


def _format_now(format: str) -> str:
    return datetime.now().strftime(format)


@functools.cache
def make_environment() -> ImmutableSandboxedEnvironment:
    """Make the environment that transformers renders chat templates in."""
    environment = ImmutableSandboxedEnvironment(
        trim_blocks=True, lstrip_blocks=True, extensions=[Generation, loopcontrols]
    )
    environment.filters["tojson"] = _write_json
    environment.globals.update(raise_exception=_raise_exception, dict=TemplateDict(), namespace=TemplateNamespace)
    environment.globals[DATE_FUNCTION] = _format_now
    return environment


@functools.lru_cache(maxsize=8)
def compile_template(source: str) -> Template:
    """Compile a chat template; raises jinja2's `TemplateSyntaxError`."""
    return make_environment().from_string(source)


def describe(source: str) -> dict[str, Any]:
    """Say what a template reads: `variables`, whether it asks the `date`, and the texts that it looks for (`tested`).

    Raises jinja2's `TemplateSyntaxError`.
    """
    compile_template(source)
    tree = make_environment().parse(source)
    own = {macro.name for macro in tree.find_all(nodes.Macro)}
    asks = DATE_FUNCTION not in own and any(name.name == DATE_FUNCTION for name in tree.find_all(nodes.Name))
    variables = sorted(meta.find_undeclared_variables(tree))
    return {"variables": variables, "date": asks, "tested": sorted(set(_find_tested(tree)))}


def _find_tested(tree: nodes.Template) -> Iterator[str]:
    """Find the strings that a template compares with, or looks for in, what it is given."""
    for compared in tree.find_all(nodes.Compare):
        yield from _strings([compared.expr, *(operand.expr for operand in compared.ops)])
    for call in tree.find_all(nodes.Call):
        if isinstance(call.node, nodes.Getattr) and call.node.attr in _LOOKS_INTO:
            yield from _strings(call.args)


def _strings(expressions: list[nodes.Expr]) -> Iterator[str]:
    for expression in expressions:
        if isinstance(expression, nodes.Tuple | nodes.List):
            yield from _strings(expression.items)
        elif isinstance(expression, nodes.Const) and isinstance(expression.value, str):
            yield expression.value


def limit_characters(given: dict[str, Any], row: dict[str, Any]) -> int:
    """Characters that a template may write that is given this."""
    return MAX_OUTPUT_CHARACTERS + MAX_INPUT_COPIES * count_characters([given, row])


def render_row(
    source: str,
    given: dict[str, Any],
    row: dict[str, Any],
    before: Callable[[], object] = lambda: None,
    most: int | None = None,
) -> list[Result]:
    """Render what is asked of one conversation: the text of each, or how it was refused; `before` is called before.

    `most`: the characters of a text at most.
    """
    messages = [_name_reasoning(message) for message in row["messages"]]
    _mark.set(row.get("mark", ""))
    shared = {**given, "tools": row.get("tools"), "documents": None, **row.get("given", {})}
    results: list[Result] = []
    for count, prompt, tail in row["asks"]:
        before()
        asked = {**shared, "messages": [*messages[:count], *tail], "add_generation_prompt": prompt}
        results.append(attempt(functools.partial(_render, source, asked, most)))
    return results


def _render(source: str, asked: dict[str, Any], most: int | None) -> Result:
    text = compile_template(source).render(**asked)
    if most is not None and len(text) > most:
        return _refuse(LIMIT, f"writes {len(text):,} characters ({most:,} at most)")
    text.encode()  # half of a character, which no tokenizer takes, is a ValueError
    return text


def attempt(work: Callable[[], Any]) -> Any:
    """Return what `work` returns, or a refusal for what it raises."""
    try:
        return work()
    except MemoryError:
        return _refuse(MEMORY, f"took more than {MAX_MEMORY_GROWTH >> 20} MiB of memory")
    except Exception as problem:
        return _refuse(type(problem).__name__, str(problem)[:1_000], getattr(problem, "lineno", None))


def _refuse(kind: str, what: str, line: int | None = None) -> Refusal:
    return {"kind": kind, "what": what, "line": line}


def _name_reasoning(message: dict[str, Any]) -> dict[str, Any]:
    """Give a message's thoughts the names under which templates look for them, and leave out what is None."""
    told = {name: value for name, value in message.items() if value is not None}
    thought = next((told[name] for name in REASONING_FIELDS if name in told), None)
    return told if thought is None else {"thinking": thought, **told, "reasoning_content": thought}


def count_characters(value: Any) -> int:
    """Count the characters of the values that a template is given."""
    if isinstance(value, str):
        return len(value)
    if isinstance(value, dict):
        return sum(len(str(key)) + count_characters(inner) for key, inner in value.items())
    return sum(map(count_characters, value)) if isinstance(value, list) else 1


class Limits:
    """What this process may still take; a limit of its own that is lower stays."""

    def __init__(self) -> None:
        self.size = _measure_address_space()
        self.memory = resource is not None and self.size > 0
        self.seconds = 0
        if resource is not None:
            self.given = {each: resource.getrlimit(each)[0] for each in (resource.RLIMIT_AS, resource.RLIMIT_CPU)}
            for kind in (resource.RLIMIT_CORE, resource.RLIMIT_FSIZE):  # no file is written, a core least of all
                resource.setrlimit(kind, (0, 0))

    def missing(self) -> list[str]:
        """Name what this system does not limit."""
        return [] if self.memory else ["memory"] if resource is not None else ["memory", "processor time"]

    def allow_memory(self, given: int) -> None:
        """Allow what rendering `given` bytes may take, from the size of the process at its start on."""
        if self.memory:
            self._set(resource.RLIMIT_AS, self.size + MAX_MEMORY_GROWTH + MEMORY_PER_BYTE * given)

    def allow_time(self) -> None:
        """Allow some seconds of processor time from now on, behind which the system ends the process."""
        until = int(time.process_time()) + PROCESSOR_SECONDS
        if resource is not None and until != self.seconds:
            self.seconds = until
            self._set(resource.RLIMIT_CPU, until)

    def _set(self, kind: int, most: int) -> None:
        hard = resource.getrlimit(kind)[1]
        lower = [each for each in (self.given[kind], hard) if each != resource.RLIM_INFINITY]
        resource.setrlimit(kind, (min([most, *lower]), hard))


def _measure_address_space() -> int:
    """Bytes of address space of this process; 0 where the system does not say, and limits none either."""
    try:
        with open("/proc/self/statm", "rb") as file:
            return int(file.read().split()[0]) * resource.getpagesize()
    except (OSError, AttributeError):
        return 0


class Answers:
    """Frames to the parent, each sent at once: of the first that is missing it knows what was being rendered."""

    def __init__(self, out: BinaryIO) -> None:
        self.out, self.sent = out, time.monotonic()

    def send(self, value: Any) -> None:
        """Send a frame."""
        self._write(json.dumps(value, ensure_ascii=False).encode())

    def keep_alive(self) -> None:
        """Say that work goes on, if nothing was said for a while."""
        if time.monotonic() - self.sent > SECONDS_OF_SILENCE:
            self._write(b"")

    def _write(self, payload: bytes) -> None:
        self.out.write(len(payload).to_bytes(8, "big") + payload)
        self.out.flush()
        self.sent = time.monotonic()


def serve(requests: BinaryIO, answers: Answers) -> None:
    """Answer frames until there are no more."""
    limits = Limits()
    answers.send({"missing": limits.missing()})
    while len(header := requests.read(8)) == 8:
        size = int.from_bytes(header, "big")
        limits.allow_memory(size)
        limits.allow_time()
        first, *rows = requests.read(size).split(b"\n")
        batch = json.loads(first)
        if "describe" in batch:
            answers.send(attempt(functools.partial(describe, batch["describe"])))
        for row in rows:
            answers.send(attempt(functools.partial(_answer, batch, row, limits, answers)))


def _answer(batch: dict[str, Any], row: bytes, limits: Limits, answers: Answers) -> list[Result]:
    def before() -> None:
        limits.allow_time()
        answers.keep_alive()

    asked = json.loads(row)
    most = limit_characters(batch["given"], asked)
    return render_row(batch["template"], batch["given"], asked, before, most)


if __name__ == "__main__":
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C reaches the parent too, which ends this process
    serve(sys.stdin.buffer, Answers(sys.stdout.buffer))
