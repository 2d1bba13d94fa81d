"""Commands one after another, each in a process of its own, in a terminal of 80 columns or between pipes.

What takes longest, importing the stack, is done once: every process is forked from there and runs the console script's
`main`. Reads a `Typed` as JSON a line and answers each with a `Shown`.
"""

from __future__ import annotations

import fcntl
import json
import os
import pty
import signal
import struct
import sys
import termios
from collections.abc import Sequence
from dataclasses import asdict, dataclass

from preloaded import import_before_forks, take_streams

from hf_finetune.cli import main

ROWS, COLUMNS = 24, 80
SECONDS = 240


@dataclass(frozen=True)
class Typed:
    """A command; `answers` are typed one by one at its prompts, and at `closed_at` the terminal is closed."""

    arguments: Sequence[str]
    terminal: bool = True
    answers: Sequence[str] = ()
    closed_at: str | None = None
    columns: int = COLUMNS
    term: str | None = "xterm-256color"
    output: str | None = None
    """Where standard output alone goes: a file, or `a closed pipe`."""


@dataclass(frozen=True)
class Shown:
    """Exit status, and standard output and error together."""

    status: int
    written: str


def run(typed: Typed) -> Shown:
    ours, theirs = pty.openpty() if typed.terminal else os.pipe()
    if typed.terminal:
        fcntl.ioctl(theirs, termios.TIOCSWINSZ, struct.pack("HHHH", ROWS, typed.columns, 0, 0))
    child = os.fork()
    if not child:
        os.close(ours)
        become(typed, theirs)
    os.close(theirs)
    written = watch(ours, list(typed.answers), typed.closed_at)
    return Shown(os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]), written)


def become(typed: Typed, end: int) -> None:
    """Be the command, with the terminal or the pipe as its streams; comes back as `SystemExit`."""
    signal.alarm(SECONDS)
    os.environ.pop("TERM", None)
    if typed.term is not None:
        os.environ["TERM"] = typed.term
    stdin = end
    if typed.terminal:
        os.setsid()
        fcntl.ioctl(end, termios.TIOCSCTTY, 0)
    else:
        stdin, feed = os.pipe()
        os.write(feed, "".join(f"{answer}\n" for answer in typed.answers).encode())
        os.close(feed)
    if typed.closed_at is not None:
        signal.signal(signal.SIGHUP, signal.SIG_IGN)  # as under nohup
    out = end if typed.output is None else open_output(typed.output)
    take_streams(stdin, out, end)
    sys.argv = ["hf-finetune", *typed.arguments]
    main()


def open_output(name: str) -> int:
    if name != "a closed pipe":
        return os.open(name, os.O_WRONLY)
    reader, writer = os.pipe()
    os.close(reader)
    return writer


def watch(end: int, answers: list[str], closed_at: str | None) -> str:
    written = b""
    while chunk := read(end):
        written += chunk
        if answers and written.endswith(b"> "):
            os.write(end, f"{answers.pop(0)}\n".encode())
        if closed_at is not None and closed_at.encode() in written:
            break
    os.close(end)
    return written.decode()


def read(end: int) -> bytes:
    try:
        return os.read(end, 65_536)
    except OSError:  # Linux's end of a terminal
        return b""


if __name__ == "__main__":
    import_before_forks([])
    for line in sys.stdin:
        print(json.dumps(asdict(run(Typed(**json.loads(line))))), flush=True)
