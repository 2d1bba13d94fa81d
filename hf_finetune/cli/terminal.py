"""Options that several commands share, and how they write to the terminal and read from it."""

from __future__ import annotations

import json
import sys
from collections.abc import Iterator
from contextlib import suppress
from typing import TYPE_CHECKING, Annotated, Any

import typer

if TYPE_CHECKING:
    from rich.console import Console

Json = Annotated[bool, typer.Option("--json", help="Print the result as JSON.")]
Model = Annotated[str, typer.Argument(help="A run folder, model folder, adapter or Hub id.")]
BasePath = Annotated[str | None, typer.Option(help="Where the base is, if not where training found it.")]


def make_console() -> Console:
    """Create a rich console that leaves the wrapping of long lines to the terminal."""
    from rich.console import Console

    return Console(soft_wrap=True)


def print_json(value: Any) -> None:
    """Print `value` as JSON, with NaN and infinities as text, since JSON has no such numbers."""
    from hf_finetune.reporting import encode_non_finite

    print(json.dumps(encode_non_finite(value), indent=2, ensure_ascii=False, allow_nan=False))


def read_terminal_lines() -> Iterator[str]:
    """Yield the lines of standard input; in a terminal with a prompt, where Ctrl-C discards a line and Ctrl-D ends."""
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
            print()
            return
        except KeyboardInterrupt:
            print("\nCtrl-D or /quit ends")
            continue
        yield line
