"""Options that several commands share, and how they write to the terminal and read from it."""

from __future__ import annotations

import errno
import json
import logging
import os
import sys
from collections.abc import Generator, Iterator, Sequence
from contextlib import contextmanager, suppress
from typing import TYPE_CHECKING, Annotated, Any, Literal, TextIO

import typer
import typer.core

from hf_finetune.errors import CannotWriteError, ConfigError, Problem, advise_unless_limited
from hf_finetune.interruption import forget_signal
from hf_finetune.privacy import escape_control_characters, escape_for_terminal, escape_json
from hf_finetune.shell import shell_path, split_for, wrap_for

if TYPE_CHECKING:
    from rich.console import Console

logger = logging.getLogger(__name__)

Json = Annotated[bool, typer.Option("--json", help="Print the result as JSON.")]
Model = Annotated[str, typer.Argument(help="A run folder, model folder, adapter or Hub id.")]
# `--columns question=query answer=reply`: an option takes one word, so that the others arrive as arguments.
Columns = Annotated[
    list[str] | None,
    typer.Option(metavar="FIELD=COLUMN", help="Take a field from a column: question=query answer=reply.text"),
]
OnBadLine = Annotated[
    Literal["fail", "skip"], typer.Option(help="skip leaves rejected rows out; fail ends with what is wrong with them.")
]
MoreColumns = Annotated[list[str] | None, typer.Argument(metavar="[FIELD=COLUMN]...", help="After --columns.")]
_USAGE_ERROR: Any = typer.BadParameter.__base__  # which typer does not show by name
FULL = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG, errno.EIO, errno.EPIPE)
Trust = Annotated[
    str | None,
    typer.Option(
        "--trust-chat-template",
        metavar="SHA256",
        help="Render the model's chat template, of this hash, without limits.",
    ),
]
BasePath = Annotated[str | None, typer.Option(help="Where the base is, if not where training found it.")]


def parse_columns(first: list[str] | None, more: list[str] | None) -> dict[str, str]:
    """Parse `field=column` words. Raises ConfigError naming each that is none, or a field that is given twice."""
    return _parse_pairs([*(first or ()), *(more or ())], "--columns", "FIELD=COLUMN", "write prompt=query")


def parse_labels(given: list[str] | None) -> dict[str, str]:
    """Parse `label=name` words. Raises ConfigError naming each that is none, or a label that is given twice."""
    return _parse_pairs(given or [], "--label", "LABEL=NAME", "write pos=POSITIVE")


def parse_adapters(first: list[str] | None, more: list[str] | None) -> dict[str, str]:
    """Parse `name=folder` words. Raises ConfigError naming each that is none, or a name that is given twice."""
    return _parse_pairs([*(first or ()), *(more or ())], "--adapters", "NAME=DIR", "write support=runs/support")


def _parse_pairs(given: list[str], option: str, form: str, remedy: str) -> dict[str, str]:
    found: dict[str, str] = {}
    problems = []
    for word in given:
        name, equals, value = word.partition("=")
        if not (name and equals and value):
            problems.append(Problem(f"{word} is not {form}", remedy, key=option, code="HF603"))
        elif name in found:
            problems.append(Problem(f"{name} is given twice", "keep one", key=option, code="HF601"))
        found[name] = value
    if problems:
        raise ConfigError(problems)
    return found


def say(line: str = "", *, file: TextIO | None = None, flush: bool = False) -> None:
    """Print one line, by default to stdout; of what it repeats of others neither an escape nor a line break is left.

    In a terminal it is broken between words.
    """
    stream = sys.stdout if file is None else file
    print(wrap_for(stream, escape_control_characters(line)), file=stream, flush=flush)


def say_pairs(pairs: Sequence[tuple[str, str]]) -> None:
    """Print names and values in two columns; in a terminal, what is too long for a line goes on below its beginning."""
    width = max((len(name) for name, _ in pairs), default=0)
    for name, value in pairs:
        # Wrapped here, and not by `say`, which would go on below the name.
        for number, line in enumerate(split_for(sys.stdout, value, width + 2)):
            say(f"{'' if number else name:>{width}}  {line}")


def say_piece(text: str) -> None:
    """Print a piece of an answer, whose line breaks stay."""
    print(escape_for_terminal(text), end="", flush=True)


class EscapingGroup(typer.core.TyperGroup):
    """Commands whose words, where they are refused, are shown as every other line is."""

    def invoke(self, ctx: Any) -> Any:
        with _escape_usage_errors():
            return super().invoke(ctx)

    def make_context(self, *args: Any, **kwargs: Any) -> Any:
        with _escape_usage_errors():
            return super().make_context(*args, **kwargs)


@contextmanager
def _escape_usage_errors() -> Iterator[None]:
    # typer 0.29 prints them through rich, which takes C0 out and leaves all else.
    try:
        yield
    except _USAGE_ERROR as refused:
        refused.message = escape_control_characters(str(refused.message))
        raise


def make_console() -> Console:
    """Create a rich console that leaves the wrapping of long lines to the terminal."""
    from rich.console import Console

    return Console(soft_wrap=True)


def print_json(value: Any, file: TextIO | None = None) -> None:
    """Print `value` as JSON, with null for NaN and infinities, since JSON has no such numbers; by default to stdout."""
    from hf_finetune.files import encode_non_finite

    document = json.dumps(encode_non_finite(value), indent=2, ensure_ascii=False, allow_nan=False)
    print(escape_json(document), file=file)


def announce(model: str) -> None:
    """Say in the log what is loaded and with how many threads: it takes seconds until there is more to say."""
    from hf_finetune.environment import describe_threads

    logger.info("loading %s, with %s", shell_path(model), describe_threads())


@contextmanager
def watch_output() -> Iterator[None]:
    """End quietly where whoever reads standard output has seen enough (`| head -1`), with exit code 0.

    Raises `CannotWriteError` where it cannot be written, as on a full disk. What is still held back is written here:
    at the exit of Python a failure would be a traceback.
    """
    output, ended = sys.stdout, None
    try:
        yield
    except (SystemExit, OSError) as raised:
        ended = raised
    failure = _find_failure(output, ended)
    if failure is not None:
        _discard(output)
        if isinstance(failure, BrokenPipeError):
            code = ended.code if isinstance(ended, SystemExit) else 0
            raise SystemExit(0 if code in (None, 1) else code)
        what = f"standard output cannot be written ({failure.strerror})"
        remedy = advise_unless_limited(failure.errno, "make room, or send it elsewhere")
        raise CannotWriteError(Problem(what, f"{remedy}; nothing but what was shown is lost", code="HF716"))
    if ended is not None:
        raise ended


def _find_failure(output: Any, ended: BaseException | None) -> OSError | None:
    """What `output` failed with, as far as can be told from what has ended the command and from a last flush."""
    # What is too long to be held back is gone with its failure, and a flush then succeeds.
    if isinstance(ended, OSError) and ended.errno in FULL and ended.filename is None:
        return ended
    cause = ended.__context__ if isinstance(ended, SystemExit) and ended.code == 1 else None
    if isinstance(cause, BrokenPipeError):  # typer or rich has seen it
        return cause
    return _flush(output)


def _flush(stream: Any) -> OSError | None:
    try:
        stream.flush()
    except OSError as failure:
        return failure
    except ValueError:  # closed
        return None
    return None


def _discard(stream: Any) -> None:
    """Let the rest go nowhere: https://docs.python.org/3/library/signal.html#note-on-sigpipe."""
    with suppress(OSError, ValueError), open(os.devnull, "wb") as nowhere:
        os.dup2(nowhere.fileno(), stream.fileno())


def read_terminal_lines() -> Generator[str, None, None]:
    """Yield the lines of standard input; in a terminal with a prompt, where Ctrl-C discards a line and Ctrl-D ends.

    To be closed: what is typed while a line is answered is not shown until then.
    """
    # A line of bytes that are not UTF-8 must not end the chat with a traceback.
    sys.stdin.reconfigure(errors="surrogateescape")  # type: ignore[union-attr]
    if not sys.stdin.isatty():
        yield from (line.rstrip("\r\n") for line in sys.stdin)
        return
    with suppress(ImportError):  # not on Windows, whose terminal edits lines itself
        import readline  # noqa: F401
    while True:
        try:
            line = input("> ")
        except EOFError:
            say()
            return
        except KeyboardInterrupt:
            forget_signal()
            say()
            say("Ctrl-D or /quit ends")
            continue
        with _keys_hidden():
            yield line


@contextmanager
def _keys_hidden() -> Iterator[None]:
    """Keep what is typed from the screen, where it would stand in the middle of an answer; the next line has it."""
    try:
        import termios  # not on Windows
    except ImportError:
        yield
        return
    try:
        before = termios.tcgetattr(sys.stdin)
    except (termios.error, TypeError, ValueError):  # no terminal, or what stands in for one
        yield
        return
    hidden = [*before[:3], before[3] & ~termios.ECHO, *before[4:]]
    termios.tcsetattr(sys.stdin, termios.TCSADRAIN, hidden)
    try:
        yield
    finally:
        termios.tcsetattr(sys.stdin, termios.TCSADRAIN, before)
