"""How far a loop has come is said every few seconds, and not by one that is faster."""

from __future__ import annotations

import logging
import os
import pty
import re
import subprocess
import sys
import termios
import time
from contextlib import suppress

import pytest

from hf_finetune.environment import ProgressLines, progress_lines
from hf_finetune.evaluation.scoring.distributed import distribute_work


def test_a_loop_that_takes_long_says_how_far_it_is_and_not_that_it_has_ended(caplog, monkeypatch):
    monkeypatch.setattr(progress_lines, "INTERVAL_S", 0.0)
    monkeypatch.setattr(progress_lines, "SECONDS_WORTH_SAYING", 10.0)
    caplog.set_level(logging.INFO, "hf_finetune")
    found = distribute_work([[1, 2], [3], [4, 5]], lambda batch: [each * 10 for each in batch], "rows read")
    assert found == [10, 20, 30, 40, 50]
    first, second = (record.getMessage() for record in caplog.records)
    assert re.fullmatch(r"2 of 5 rows read, \S+ a second", first)
    assert re.fullmatch(r"3 of 5 rows read, \S+ a second", second)


@pytest.mark.parametrize("total", [None, 9])
def test_a_fast_loop_says_nothing_and_its_seconds_are_known(caplog, total):
    caplog.set_level(logging.INFO, "hf_finetune")
    progress = ProgressLines("rows read", total)
    seconds = [progress.log_if_due(done) for done in range(1, 9)]
    assert 0 <= seconds[0] <= seconds[-1] < progress_lines.INTERVAL_S
    assert not caplog.records


def test_without_a_total_the_number_alone_is_said(caplog, monkeypatch):
    monkeypatch.setattr(progress_lines, "INTERVAL_S", 0.0)
    caplog.set_level(logging.INFO, "hf_finetune")
    ProgressLines("rows read").log_if_due(1200)
    assert caplog.records[0].getMessage().startswith("1,200 rows read, ")


def test_one_call_that_takes_long_is_said_to_be_at_it_and_a_fast_one_is_not(caplog, monkeypatch):
    caplog.set_level(logging.INFO, "hf_finetune")
    with progress_lines.say_while("reading it"):
        pass
    assert not caplog.records
    monkeypatch.setattr(progress_lines, "INTERVAL_S", 0.01)
    with progress_lines.say_while("reading it"):
        deadline = time.monotonic() + 10
        while not caplog.records and time.monotonic() < deadline:
            time.sleep(0.01)
    assert caplog.records[0].getMessage() == "reading it: 0 s so far"


@pytest.mark.parametrize(("seconds", "left"), [(10, ", about 30 s left"), (100, ", about 5 min left"), (1, "")])
def test_how_long_it_will_take_still_is_said_where_it_is_worth_a_word(caplog, monkeypatch, seconds, left):
    caplog.set_level(logging.INFO, "hf_finetune")
    progress = ProgressLines("rows read", 1_000)
    progress.started = progress.logged = time.monotonic() - seconds
    monkeypatch.setattr(progress_lines, "INTERVAL_S", 0.0)
    progress.log_if_due(250)
    assert re.fullmatch(rf"250 of 1,000 rows read, \S+ a second{left}", caplog.records[0].getMessage())
    progress.total = None  # rows of which only the share of their bytes is known
    progress.log_if_due(250, 0.25)
    assert re.fullmatch(rf"250 rows read, \S+ a second{left}", caplog.records[1].getMessage())


def test_a_terminal_gets_a_bar_that_a_line_of_the_log_does_not_run_into():
    """On a real terminal of 80 columns: what is left on the screen are the lines alone."""
    program = """
import logging, time
from hf_finetune.environment import progress_lines, set_up_logging
set_up_logging()
progress_lines.SECONDS_UNSHOWN = 0.0
with progress_lines.show_progress("rows tokenized", 40) as show:
    for done in range(41):
        show(done)
        time.sleep(0.02)
        if done == 20:
            logging.getLogger("hf_finetune").info("a line of the log")
with progress_lines.show_progress("rows of a.jsonl read") as show:
    for done in range(1, 9):
        show(done, done / 10)
        time.sleep(0.02)
print("the end")
"""
    ours, theirs = pty.openpty()
    termios.tcsetwinsize(theirs, (24, 80))
    environment = {**os.environ, "TERM": "xterm"}
    with subprocess.Popen([sys.executable, "-c", program], stdout=theirs, stderr=theirs, env=environment) as shown:
        os.close(theirs)
        written = b""
        with suppress(OSError):  # the terminal is closed
            while some := os.read(ours, 4_096):
                written += some
    os.close(ours)
    assert shown.returncode == 0
    drawn = written.decode()
    assert "tokenized" in drawn
    assert "rows/s" in drawn
    assert re.search(r"read \S*\d.* rows/s .*left", drawn)
    assert show_screen(drawn) == ["a line of the log", "the end"]


def show_screen(drawn: str) -> list[str]:
    """The lines that stay, of a program that takes lines off and goes up before it draws them anew."""
    lines, at = [""], 0
    for piece in re.split(r"(\r|\n|\x1b\[\??\d*[A-Za-z])", drawn):
        if piece == "\n":
            at += 1
            lines += [""] * (at == len(lines))
        elif piece.endswith("A") and piece.startswith("\x1b"):
            at -= int(piece[2:-1] or 1)
        elif piece == "\x1b[2K":
            lines[at] = ""
        elif not piece.startswith(("\x1b", "\r")):
            lines[at] += piece
    return [line.strip() for line in lines if line.strip()]
