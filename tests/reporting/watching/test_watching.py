"""A run that is looked at: frames of 80 columns, lines in a pipe, a page that reloads itself, and when they end."""

from __future__ import annotations

import io
import json
import math
import os
import socket
import time
from pathlib import Path
from typing import Any

import psutil
import pytest
from hypothesis import given
from hypothesis import strategies as st
from reporting.made_runs import foreign, manifest, report, run_folder
from rich.console import Console

from hf_finetune.errors import ConfigError, DataError
from hf_finetune.reporting import (
    RunWatcher,
    follow_in_terminal,
    follow_lines,
    keep_page,
    list_facts,
    read_run,
    show,
    watching,
)
from hf_finetune.reporting.liveness import seems_alive
from hf_finetune.reporting.run_log import read_log
from hf_finetune.reporting.watching import page
from hf_finetune.reporting.watching.plot import BLANK, average, plot_curve

NOW = 1_764_000_000.0


def hold(folder: Path, **changes: Any) -> None:
    """Hold a run folder as a run does: by this process, unless another is named."""
    process = psutil.Process()
    owner = {"pid": process.pid, "host": socket.gethostname(), "born": process.create_time(), "since": 1.0}
    (folder / ".lock").write_text(json.dumps(owner | changes))


def log(folder: Path, *lines: dict[str, Any]) -> None:
    with (folder / "log.jsonl").open("a") as file:
        file.writelines(json.dumps(line) + "\n" for line in lines)


def entry(step: int, **more: Any) -> dict[str, Any]:
    return {
        "step": step,
        "epoch": step / 100,
        "loss": 1 + 3 / step,
        "learning_rate": 1e-4,
        "time": NOW + 2 * step,
        **more,
    }


@pytest.fixture
def running(tmp_path, monkeypatch):
    """A run at step 40 of 100, whose last line is 30 seconds old."""
    folder = run_folder(tmp_path / "run", None, manifest())
    log(folder, {"log": 1, "max_steps": 100, "time": NOW}, *map(entry, range(1, 41)))
    evaluation = {"step": 40, "eval_loss": 1.25, "eval_token_accuracy": 0.5, "time": NOW + 80}
    sample = {"prompt": "Who\x1b[31m?", "continuation": "I.\nMe.\n" + "x" * 200}
    log(folder, evaluation, {"step": 40, "sample": sample, "time": NOW + 80})
    hold(folder)
    monkeypatch.setattr(time, "time", lambda: NOW + 110)
    return folder


def draw(view: Any, width: int = 80, encoding: str = "utf-8") -> str:
    file = io.TextIOWrapper(io.BytesIO(), encoding=encoding)
    show(view, Console(file=file, width=width, force_terminal=True, color_system=None, markup=False, highlight=False))
    file.seek(0)
    return file.read()


def test_a_running_run_is_shown_with_its_rate_the_time_left_and_all_that_came_last(running):
    before = {path: (path.read_bytes(), path.stat().st_mtime_ns) for path in running.iterdir()}
    view = RunWatcher(str(running)).look()
    assert (view.state, view.step, view.max_steps, view.trained) == ("running", 40, 100, False)
    assert (view.steps_per_s, view.left_s, view.written_s) == (0.5, 120.0, 30.0)
    said = draw(view)
    for part in ("running, step 40 of 100 (40%)", "last: loss 1.0750  lr 1.00e-04", "0.5 steps/s, 2 min 0 s left"):
        assert part in said
    for part in (
        "evaluation at step 40: validation loss 1.2500  token accuracy 50.0%",
        "sample at step 40",
        "are free",
    ):
        assert part in said
    assert "last line 30 s ago" in said
    assert "\\x1b[31m" in said
    assert "\x1b" not in said
    assert {path: (path.read_bytes(), path.stat().st_mtime_ns) for path in running.iterdir()} == before
    assert json.loads(json.dumps(view.as_dict()))["left_s"] == 120.0


@pytest.mark.parametrize("width", [80, 40, 200])
@pytest.mark.parametrize("encoding", ["utf-8", "ascii"])
def test_no_line_is_wider_than_the_terminal(running, width, encoding):
    lines = draw(RunWatcher(str(running)).look(), width, encoding).splitlines()
    assert max(map(len, lines)) <= width
    assert len(lines) < 30
    dots = "*" if encoding == "ascii" else "".join(chr(BLANK + number) for number in range(1, 256))
    assert sum(any(dot in line for dot in dots) for line in lines) == 8


def test_a_gap_between_two_sessions_is_no_part_of_the_rate(running):
    log(running, *(entry(step, time=NOW + 100_000 + 2 * step) for step in range(41, 51)))
    assert RunWatcher(str(running)).look().steps_per_s == 0.5


@pytest.mark.parametrize(
    ("change", "state", "said"),
    [
        (lambda folder: (folder / ".lock").unlink(), "stopped", "not finished, ended at step 40 of 100 (40%)"),
        (lambda folder: hold(folder, born=1.0), "stopped", "not finished, ended at"),
        (lambda folder: hold(folder, pid=2**40), "stopped", "not finished, ended at"),
        (lambda folder: (folder / ".lock").write_text("{"), "stopped", "not finished, ended at"),
        (
            lambda folder: log(folder, {"step": 40, "ended": "OutOfMemoryError"}),
            "stopped", "not finished, ended by memory that ran out at step 40 of 100",
        ),
        (lambda folder: log(folder, {"step": 40, "train_runtime": 9.0}), "running", "trained, step 40 of 100"),
        (lambda folder: run_folder(folder, report(), None), "done", "finished, step 300"),
    ],
)  # fmt: skip
def test_a_run_runs_as_long_as_its_process_holds_the_folder(running, change, state, said):
    change(running)
    view = RunWatcher(str(running)).look()
    assert view.state == state
    assert said in list_facts(view)[0]
    assert read_run(running).status == state


def test_a_run_on_another_host_runs_as_long_as_it_writes(running):
    hold(running, host="elsewhere")
    for age, alive in ((200, True), (400, False)):
        for name in ("log.jsonl", ".lock"):
            os.utime(running / name, (NOW + 110 - age,) * 2)
        assert seems_alive(running, read_log(running)) is alive


def test_a_finished_run_that_is_trained_on_is_no_finished_one(running):
    done = report(train={"steps": 40, "max_steps": 40})
    run_folder(running, done, None)
    assert read_run(running).status == "running"
    log(running, {"log": 1, "max_steps": 40})
    assert read_run(running).status == "done"


def test_a_folder_in_which_a_run_has_begun_is_waited_for_and_any_other_refused(tmp_path):
    hold(tmp_path)
    begun = RunWatcher(str(tmp_path)).look()
    assert (begun.state, begun.verdict) == ("waiting", "A process has begun it.")
    hold(tmp_path, born=1.0)  # another process has the number now
    killed = RunWatcher(str(tmp_path)).look()
    assert (killed.state, killed.going) == ("stopped", False)
    assert "begins it again" in killed.verdict
    (tmp_path / ".lock").unlink()
    assert RunWatcher(str(tmp_path)).look().verdict == ""
    (tmp_path / "thesis.docx").touch()
    with pytest.raises(ConfigError, match="holds nothing of a run"):
        RunWatcher(str(tmp_path)).look()
    with pytest.raises(ConfigError, match="is no folder"):
        RunWatcher(str(tmp_path / "missing")).look()


def test_the_run_of_another_trainer_is_shown_once(tmp_path):
    view = RunWatcher(str(foreign(tmp_path / "run"))).look()
    assert (view.state, view.going) == ("foreign", False)
    assert "another Trainer's run, step 200 of 300 (67%)" in draw(view)


def act_between(monkeypatch, *steps: Any) -> None:
    """Let each of `steps` happen in the place of one pause."""
    left = list(steps)
    monkeypatch.setattr(watching.time, "sleep", lambda seconds: left.pop(0)())
    monkeypatch.setattr("hf_finetune.reporting.watching.view.SECONDS_BETWEEN_LOOKS", 0.0)


def test_in_a_pipe_each_line_of_the_log_is_a_line_until_the_run_ends(running, monkeypatch):
    said: list[str] = []
    cut = (running / "log.jsonl").read_bytes().split(b"\n")
    act_between(
        monkeypatch,
        lambda: log(running, entry(41), entry(42)),
        lambda: None,
        lambda: (running / "log.jsonl").write_bytes(b"\n".join(cut[:31]) + b"\n"),  # it goes on from a checkpoint
        lambda: log(running, entry(31)),
        lambda: (running / ".lock").unlink(),
    )
    follow_lines(RunWatcher(str(running)), said.append)
    new = said[said.index("step  41/100  loss 1.0732  lr 1.00e-04") :]
    assert new[:2] == [f"step  4{n}/100  loss {1 + 3 / (40 + n):.4f}  lr 1.00e-04" for n in (1, 2)]
    assert new[2].startswith("step  31/100  loss ")
    assert new[3] == "run: not finished, ended at step 31 of 100 (31%)"
    assert new[4].startswith("The run stopped at step 31 of 100.")
    assert len(new) == 5


def test_in_a_terminal_the_frame_is_drawn_again_until_the_run_ends(running, monkeypatch, capsys):
    act_between(monkeypatch, lambda: log(running, entry(77)), lambda: run_folder(running, report(), None))
    console = Console(width=80, force_terminal=True, color_system=None)
    follow_in_terminal(RunWatcher(str(running)), console)
    out = capsys.readouterr().out
    assert out.index("step 40 of 100") < out.index("step 77 of 100") < out.index("finished, step 300")
    assert out.count("\x1b[?25l") == out.count("\x1b[?25h") == 1


def test_what_is_wrong_for_a_moment_is_borne_and_for_longer_said(running, monkeypatch):
    monkeypatch.setattr("hf_finetune.reporting.watching.view.SECONDS_BETWEEN_LOOKS", 0.0)
    watcher = RunWatcher(str(running))
    whole = (running / "manifest.json").read_bytes()
    watcher.look()
    (running / "manifest.json").write_text("{")
    assert watcher.look().step == 40
    (running / "manifest.json").write_bytes(whole)
    log(running, entry(41))
    assert watcher.look().step == 41
    (running / "manifest.json").write_text("{")
    said = [watcher.look().step for _ in range(3)]
    assert said == [41, 41, 41]
    with pytest.raises(DataError, match=r"manifest\.json"):
        watcher.look()


def test_the_page_reloads_itself_until_the_run_ends(running, monkeypatch):
    pages: list[str] = []
    path = running / "report.html"

    def pause(seconds: float) -> None:
        pages.append(path.read_text())
        log(running, entry(40 + len(pages)))
        if len(pages) == 2:
            (running / ".lock").unlink()

    monkeypatch.setattr(page.time, "sleep", pause)
    assert keep_page(str(running), path).step == 42
    tag = '<meta http-equiv="refresh" content="10">'
    assert [tag in each for each in (*pages, path.read_text())] == [True, True, False]
    assert "seems to be running. It is shown as far as it is, which is step 41 of 100." in pages[1]
    assert "This run is not finished. It is shown as far as it got, which is step 42 of 100." in path.read_text()

    hold(running)
    monkeypatch.setattr(page.time, "sleep", lambda seconds: (_ for _ in ()).throw(KeyboardInterrupt))
    with pytest.raises(KeyboardInterrupt):
        keep_page(str(running), path)
    assert tag not in path.read_text()  # nobody writes it any more


@given(
    st.lists(st.floats(allow_nan=True, allow_infinity=True, width=32), max_size=300),
    st.integers(1, 90),
    st.integers(1, 9),
)
def test_a_plot_has_the_size_that_was_asked_for(values, width, height):
    for ascii_only in (True, False):
        lines = plot_curve(values, width, height, ascii_only=ascii_only)
        finite = [value for value in average(values, width * (1 if ascii_only else 2)) if math.isfinite(value)]
        assert len(lines) == (height if len(finite) > 1 else 0)
        assert {len(line) for line in lines} <= {width}


def test_a_falling_loss_is_plotted_as_one():
    assert plot_curve([3, 2, 1], 3, 3, ascii_only=True) == ["*  ", " * ", "  *"]
    assert plot_curve([1.0, math.nan, 1.0], 3, 1, ascii_only=True) == ["* *"]
    assert plot_curve([2.0, 1.0], 2, 1) == ["⠑⢄"]
    assert plot_curve([1.0, 3.0], 2, 4, ascii_only=True) == [" *", " *", " *", "* "]
    assert average([4, 3, 2, 1], 2) == [3.5, 1.5]
