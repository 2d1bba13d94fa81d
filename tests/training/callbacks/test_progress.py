from __future__ import annotations

import errno
import io
import itertools
import logging
import os
import re
import subprocess
import sys
from pathlib import Path

import pytest
from rich.console import Console
from training.callbacks.watched_runs import SAMPLE, trainer_in
from transformers import TrainerControl, TrainerState

from hf_finetune.training.callbacks.progress import SAMPLE_LINES, ProgressDisplay

PROGRAM = Path(__file__).parent / "watched_runs.py"
HIDE, SHOW = "\x1b[?25l", "\x1b[?25h"


def in_a_terminal(environment: dict[str, str], *arguments: str) -> tuple[int, str]:
    """Exit status and everything that a program wrote to a terminal of 100 columns."""
    master, slave = os.openpty()
    environment = environment | {
        "TERM": "xterm",
        "COLUMNS": "100",
        "LINES": "30",
        "PYTHONPATH": os.pathsep.join(map(str, PROGRAM.parents[1:3])),
    }
    program = subprocess.Popen(
        [sys.executable, str(PROGRAM), *arguments],
        stdin=slave, stdout=slave, stderr=slave, env=environment, start_new_session=True,
    )  # fmt: skip
    os.close(slave)
    written = b""
    try:
        while chunk := os.read(master, 65_536):
            written += chunk
    except OSError:  # Linux's end of a terminal
        pass
    os.close(master)
    return program.wait(), written.decode()


def as_lines(written: str) -> str:
    """Without colors; what was erased from the terminal stands on lines of its own."""
    return re.sub(r"\x1b\[[\d;?]*\w", "", re.sub(r"(?:\x1b\[2K|\x1b\[1A|\r)+\n?", "\n", written))


@pytest.fixture
def display() -> tuple[ProgressDisplay, io.StringIO]:
    terminal = io.StringIO()
    return ProgressDisplay(lambda: Console(file=terminal, force_terminal=True, width=100, height=30)), terminal


def state_at(step: int) -> TrainerState:
    return TrainerState(global_step=step, max_steps=10)


def test_in_a_terminal_the_progress_is_shown_and_the_lines_go_on_above_it(environment_of_a_user, tmp_path):
    status, written = in_a_terminal(environment_of_a_user, "watch", str(tmp_path))
    training, rest = written.split("between")
    evaluating, rest = rest.split("quiet")
    quiet, failing = rest.split("failing")
    plain = as_lines(training)
    for step in (2, 4, 6):
        assert len(re.findall(rf"^step {step}/6  loss [\d.]+ .* tokens/s$", plain, re.MULTILINE)) == 1
    assert re.search(r"training 6/6 ━+ \d:\d\d:\d\d gone 0:00:00 left", plain)
    assert len(re.findall(r"evaluating 2/2", plain)) >= 2  # after the first, the second of one run had failed
    assert "[/INST] :smile:" in plain  # what others print is not read as markup
    assert "A \\x1b[31mred\\x1b[0m \\u202eword" in plain
    assert SAMPLE[1] not in training
    assert "'loss'" not in plain  # the Trainer's own
    assert training.count(HIDE) < training.count(SHOW)
    assert "evaluating" in evaluating
    assert SAMPLE[0] not in evaluating
    # With disable_tqdm there are the lines alone.
    assert len(re.findall(r"^step \d/6", quiet, re.MULTILINE)) == 5
    assert "\x1b" not in quiet
    # A run that fails gives the terminal back as it was, and then says so.
    assert status == 4
    assert "the loss is no number" in failing
    assert "Traceback" not in failing
    assert re.search(rf"{re.escape(SHOW)}(?:\r|\x1b\[1A|\x1b\[2K)*the loss is no number\s*$", failing)


def test_without_a_terminal_there_is_one_line_for_each_logging_step_and_nothing_else(tmp_path, caplog, capfd):
    trainer = trainer_in(tmp_path, disable_tqdm=False)
    with caplog.at_level(logging.INFO, logger="hf_finetune"):
        trainer.train()
    lines = [record.getMessage() for record in caplog.records]
    assert [line.split("  ")[0] for line in lines] == ["step 2/6", "step 3/6", "step 4/6", "step 6/6", "step 6/6"]
    assert not any(isinstance(each, ProgressDisplay) for each in trainer.callback_handler.callbacks)
    shown = capfd.readouterr()
    assert "\x1b" not in shown.out + shown.err
    assert "loss" not in shown.out


def test_other_processes_show_nothing(tmp_path, monkeypatch):
    monkeypatch.setattr(sys.stderr, "isatty", lambda: True, raising=False)
    monkeypatch.setattr("transformers.Trainer.is_world_process_zero", lambda self: False)
    trainer = trainer_in(tmp_path, disable_tqdm=False)
    assert not any(isinstance(each, ProgressDisplay) for each in trainer.callback_handler.callbacks)


def test_a_long_sample_takes_no_more_than_its_lines(display):
    shown, terminal = display
    shown.on_train_begin(None, state_at(0), TrainerControl())
    shown.show_sample("prompt", "line\n" * 100)
    frame = terminal.getvalue().rsplit("\x1b[2K", 1)[-1]
    assert frame.count("line") == SAMPLE_LINES
    shown.stop()
    after = terminal.getvalue().rsplit("line", 1)[-1]
    assert after.count("\x1b[2K") == frame.count("\n") + 1  # each line of it is erased


def test_a_sample_goes_when_there_are_figures_since_the_log_has_it(display):
    shown, terminal = display
    shown.on_train_begin(None, state_at(0), TrainerControl())
    shown.show_sample("prompt", "continuation")
    assert "continuation" in terminal.getvalue().rsplit("\x1b[2K", 1)[-1]
    shown.on_log(None, state_at(1), TrainerControl(), {"loss": 1.5})
    last = terminal.getvalue().rsplit("\x1b[2K", 1)[-1]
    assert "loss 1.5" in last
    assert "continuation" not in last


def test_nothing_of_a_frame_remains_when_the_run_is_over(display):
    shown, terminal = display
    shown.on_train_begin(None, state_at(0), TrainerControl())
    shown.on_step_end(None, state_at(10), TrainerControl())
    shown.on_train_end(None, state_at(10), TrainerControl())
    assert re.fullmatch(r"[^\n]*\n(?:\x1b\[\?25h|\r|\x1b\[1A|\x1b\[2K)+", terminal.getvalue().rsplit("10/10", 1)[-1])


def as_screen(written: str) -> list[str]:
    """The lines that a terminal shows."""
    lines, row, column = [""], 0, 0
    for piece in re.findall(r"\x1b\[[0-9;?]*[a-zA-Z]|[^\x1b]", written):
        if piece == "\n":
            row, column = row + 1, 0
        elif piece == "\r":
            column = 0
        elif piece.endswith("A"):
            row -= int(piece[2:-1] or 1)
        elif piece.endswith("K"):
            lines[row] = ""
        elif len(piece) == 1:
            if column == 100:
                row, column = row + 1, 0
                lines += [""] * (row + 1 - len(lines))
            lines[row] = lines[row][:column].ljust(column) + piece + lines[row][column + 1 :]
            column += 1
        lines += [""] * (row + 1 - len(lines))
    return [line.rstrip() for line in lines if line.strip()]


@pytest.mark.parametrize("answer", ["Ctrl-C: this step is finished and saved first", "a line of the terminal " * 5])
@pytest.mark.parametrize("more_frames", [True, False])
def test_the_answer_to_a_signal_stays_above_the_progress(display, monkeypatch, answer, more_frames):
    shown, written = display
    shown.on_train_begin(None, state_at(0), TrainerControl())
    for step in (1, 2):
        shown.on_log(None, state_at(step), TrainerControl(), logs={"loss": 1.0})
        shown._drawn = 0.0
        shown.on_step_end(None, state_at(step), TrainerControl())
    assert len(as_screen(written.getvalue())) > 1
    written.write(f"^C\n{answer}\n")  # as the handler of the signal does
    monkeypatch.setattr("hf_finetune.interruption._state.answer", answer)
    if more_frames:
        shown._drawn = 0.0
        shown.on_step_end(None, state_at(3), TrainerControl())
        screen = as_screen(written.getvalue())
        assert sum("training" in line for line in screen) == 1
        assert answer[:20] in screen[0]
    shown.stop()
    assert "".join(as_screen(written.getvalue())).replace(" ", "") == answer.replace(" ", "")


def test_frames_are_drawn_no_faster_than_an_eye_sees(display):
    shown, terminal = display
    control = TrainerControl()
    shown.on_train_begin(None, state_at(0), control)
    for step in range(1, 10):
        shown.on_step_end(None, state_at(step), control)
    drawn = terminal.getvalue().count("training")
    shown.stop()
    assert 1 <= drawn < 5


def test_a_handler_of_the_log_gets_its_stream_back(display):
    shown, _ = display
    handler = logging.StreamHandler(sys.__stderr__)
    logging.getLogger().addHandler(handler)
    try:
        shown.on_train_begin(None, state_at(0), TrainerControl())
        assert handler.stream is not sys.__stderr__
        shown.on_train_end(None, state_at(10), TrainerControl())
        assert handler.stream is sys.__stderr__
    finally:
        logging.getLogger().removeHandler(handler)


class ClosedTerminal(io.StringIO):
    """A terminal that is gone after so many writes."""

    def __init__(self, writes: int) -> None:
        super().__init__()
        self.writes = writes
        self.refused = False

    def write(self, text: str) -> int:
        if self.writes == 0:
            self.refused = True
            raise OSError(errno.EIO, "Input/output error")
        self.writes -= 1
        return super().write(text)


def whole_run(shown: ProgressDisplay, said: logging.Logger) -> None:
    control = TrainerControl()
    shown.on_train_begin(None, state_at(0), control)
    for step in (1, 2):
        shown.on_step_end(None, state_at(step), control)
        said.warning("step %d", step)
        shown.on_log(None, state_at(step), control, logs={"loss": 1.0})
        for _ in range(2):
            shown.on_prediction_step(None, state_at(step), control, eval_dataloader=[0, 1])
        shown.on_evaluate(None, state_at(step), control)
        shown.show_sample("prompt", "continuation")
    shown.on_train_end(None, state_at(2), control)
    shown.on_prediction_step(None, state_at(2), control, eval_dataloader=[0])
    shown.on_predict(None, state_at(2), control, metrics={})


@pytest.fixture
def said_of_the_display(caplog):
    return lambda: [
        each.getMessage() for each in caplog.records if each.name == "hf_finetune.training.callbacks.progress"
    ]


def test_wherever_the_terminal_fails_the_run_goes_on_and_hears_of_it_once(caplog, said_of_the_display):
    streams = (sys.stdout, sys.stderr)
    handler = logging.StreamHandler(sys.__stderr__)
    logging.getLogger().addHandler(handler)
    caplog.set_level(logging.WARNING)
    try:
        for writes in itertools.count():
            caplog.clear()
            terminal = ClosedTerminal(writes)
            console = Console(file=terminal, force_terminal=True, width=60, height=10)
            shown = ProgressDisplay(lambda console=console: console)
            whole_run(shown, logging.getLogger("a library"))
            assert (sys.stdout, sys.stderr, handler.stream) == (*streams, sys.__stderr__)
            if not terminal.refused:
                break
            assert shown.failed
            (line,) = said_of_the_display()
            assert "off" in line
            assert "OSError" in line
    finally:
        logging.getLogger().removeHandler(handler)
    assert writes > 15  # every write of a whole run was the one that failed
    assert not shown.failed
    assert said_of_the_display() == []


NOTHING = (None, None, None)
FAILING = {
    "opening": lambda shown: shown.on_train_begin(None, state_at(0), TrainerControl()),
    "on_train_begin": lambda shown: shown.on_train_begin(*NOTHING),
    "on_step_end": lambda shown: shown.on_step_end(*NOTHING),
    "on_log": lambda shown: shown.on_log(*NOTHING, logs={"loss": "no \x1b[31mnumber"}),
    "on_prediction_step": lambda shown: shown.on_prediction_step(None, state_at(1), None, eval_dataloader=iter([])),
    "show_sample": lambda shown: shown.show_sample(None, None),
}


@pytest.mark.parametrize("what", FAILING)
def test_whatever_the_display_raises_ends_the_display_alone(what, display, said_of_the_display):
    shown, terminal = display
    if what == "opening":
        shown = ProgressDisplay(lambda: Console(width="wide"))
    else:
        shown.on_train_begin(None, state_at(0), TrainerControl())
    FAILING[what](shown)
    FAILING[what](shown)
    (line,) = said_of_the_display()
    assert "Error: " in line
    assert "\x1b" not in line
    drawn = terminal.getvalue()
    whole_run(shown, logging.getLogger("a library"))
    assert terminal.getvalue() == drawn
    assert drawn.rfind(SHOW) >= drawn.rfind(HIDE)


def test_every_callback_of_the_display_is_kept_from_ending_a_run():
    called = {name: each for name, each in vars(ProgressDisplay).items() if name.startswith("on_")}
    assert len(called) >= 7
    assert all(hasattr(each, "__wrapped__") for each in (*called.values(), ProgressDisplay.show_sample))


@pytest.mark.parametrize(("width", "height"), [(1, 1), (2, 3), (13, 2)])
def test_no_terminal_is_too_small(width, height):
    console = Console(file=io.StringIO(), force_terminal=True, width=width, height=height)
    shown = ProgressDisplay(lambda: console)
    whole_run(shown, logging.getLogger("a library"))
    assert not shown.failed
