"""Lines that are said to a user: in a terminal broken between words, in a pipe and in a file as they are."""

from __future__ import annotations

import io
import os
import struct
import subprocess
import sys

import pytest

from hf_finetune.cli.terminal import say_pairs
from hf_finetune.shell import wrap_for

pytestmark = pytest.mark.skipif(sys.platform == "win32", reason="no pty")
if sys.platform != "win32":
    import fcntl
    import pty
    import termios


def read_terminal(text, columns=40):
    """What `wrap_for` makes of a text for a terminal of so many columns."""
    ours, theirs = pty.openpty()
    fcntl.ioctl(theirs, termios.TIOCSWINSZ, struct.pack("HHHH", 24, columns, 0, 0))
    with os.fdopen(ours, "rb"), os.fdopen(theirs, "w") as terminal:
        return wrap_for(terminal, text)


def test_a_line_in_a_terminal_is_broken_between_words_and_never_in_a_path_a_code_or_a_command():
    path = "runs/a-folder-with-a-long-name/that-goes-on/rows.jsonl:12:"
    said = f"{path} is no row of this format; write one as in docs/data-formats.md [HF020]"
    shown = read_terminal(f"{said}\n  {said}")
    lines = shown.split("\n")
    assert {line.strip() for line in lines if len(line) > 40} == {path}
    assert " ".join(shown.split()) == f"{said} {said}"
    assert lines[:3] == [path, "  is no row of this format; write one as", "  in docs/data-formats.md [HF020]"]
    assert lines[3:] == [
        f"  {path}",
        "    is no row of this format; write one",
        "    as in docs/data-formats.md [HF020]",
    ]
    command = f"hf-finetune train {path} and a word or two"
    served = "vllm serve models/base --served-model-name base --port 8000"
    for whole in (command, f"  {command}", served, "short", "", "a table   of  columns"):
        assert read_terminal(whole) == whole


def test_a_value_goes_on_below_its_beginning(monkeypatch):
    ours, theirs = pty.openpty()
    fcntl.ioctl(theirs, termios.TIOCSWINSZ, struct.pack("HHHH", 24, 40, 0, 0))
    with os.fdopen(ours, "r") as shown, os.fdopen(theirs, "w") as terminal:
        monkeypatch.setattr(sys, "stdout", terminal)
        say_pairs([("name", "one two three four five six seven eight"), ("a longer name", "x")])
        terminal.flush()
        lines = [shown.readline().rstrip() for _ in range(3)]
    assert lines == ["         name  one two three four five", "               six seven eight", "a longer name  x"]


def test_a_line_in_a_pipe_or_a_file_stays_as_it_is(tmp_path):
    with (tmp_path / "log").open("w") as file:
        for stream in (None, io.StringIO(), file):
            assert wrap_for(stream, "word " * 50) == "word " * 50


def test_what_is_printed_logged_and_refused_is_wrapped_in_one_way():
    line = "a message of many words which is longer than the line of a terminal that has forty columns"
    code = (
        "import logging, sys; from hf_finetune.cli.terminal import say; from hf_finetune.errors import *;"
        "from hf_finetune.environment import escape_logged_lines;"
        f"line = {line!r}; logging.basicConfig(format='%(message)s'); escape_logged_lines();"
        "say(line); logging.warning(line); logging.getLogger('hf_finetune.x').warning('%s', line)\n"
        "with user_errors(): raise ConfigError(Problem(line))"
    )
    ours, theirs = pty.openpty()
    fcntl.ioctl(theirs, termios.TIOCSWINSZ, struct.pack("HHHH", 24, 40, 0, 0))
    with os.fdopen(theirs, "w") as terminal:
        done = subprocess.run([sys.executable, "-c", code], stdout=terminal, stderr=terminal, check=False)
    with os.fdopen(ours, "rb") as screen:
        lines = os.read(screen.fileno(), 10_000).decode().replace("\r", "").splitlines()
    assert done.returncode == 2
    assert lines == 4 * read_terminal(line).split("\n")
