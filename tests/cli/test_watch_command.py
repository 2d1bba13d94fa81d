"""`hf-finetune watch`, and `report --watch`: of a run that was killed, of one that goes on, and stopped themselves."""

from __future__ import annotations

import json
import multiprocessing
import os
import re
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
import torch
from reporting.made_runs import manifest, report, run_folder
from reporting.watching.test_watching import entry, hold, log
from typer.testing import CliRunner

from hf_finetune.cli import app
from hf_finetune.errors import ConfigError
from hf_finetune.reporting.run_log import read_log
from hf_finetune.reporting.watching import page

# Autograd of a machine with a GPU has threads, which a fork would lose.
PROCESSES = multiprocessing.get_context("spawn" if torch.cuda.is_available() else "fork")
SMALL = (
    "model.scratch.hidden_size=32", "model.scratch.num_hidden_layers=1", "model.scratch.num_attention_heads=2",
    "train.max_steps=100000", "train.logging_steps=1", "train.eval_strategy=no", "train.save_strategy=no",
    "eval.prompts=[]",
)  # fmt: skip


def run(*arguments: object) -> str:
    done = CliRunner().invoke(app, [*map(str, arguments)], catch_exceptions=False)
    assert done.exit_code == 0
    return done.stdout


def test_a_run_that_was_killed_is_diagnosed_reported_and_watched(run_recipe, tmp_path):
    folder = tmp_path / "run"
    process = PROCESSES.Process(target=run_recipe, args=("char_model", *SMALL))
    process.start()
    end = time.monotonic() + 100
    while len(read_log(folder).history) < 12:
        assert process.is_alive()
        assert time.monotonic() < end
        time.sleep(0.02)
    os.kill(process.pid, signal.SIGKILL)
    process.join()
    step = read_log(folder).step
    assert [int(each["step"]) for each in read_log(folder).history] == [*range(1, step + 1)]
    assert f"The run stopped at step {step} of 100,000." in run("diagnose", folder)
    assert f"The run stopped at step {step} of 100,000." in run("report", folder)
    assert f"It is shown as far as it got, which is step {step} of 100,000." in (folder / "report.html").read_text()
    assert run("watch", folder, "--once").startswith(f"run: not finished, ended at step {step} of 100,000 (0%)\n")
    age = re.compile(r"\d+ s ago")
    waited, once = (age.sub("", run("watch", folder, *more)) for more in ([], ["--once"]))
    assert waited == once  # there is nothing to wait for
    shown = json.loads(run("watch", folder, "--json"))
    assert (shown["state"], shown["step"], shown["left_s"]) == ("stopped", step, None)
    assert run("report", folder, "--watch").endswith(f"{folder / 'report.html'} is written\n")
    assert 'http-equiv="refresh"' not in (folder / "report.html").read_text()


def test_ctrl_c_ends_the_view_and_not_the_run(tmp_path, environment_of_a_user):
    folder = run_folder(tmp_path / "run", None, manifest())
    log(folder, {"log": 1, "max_steps": 100}, *map(entry, range(1, 41)))
    hold(folder)
    line = [sys.executable, "-m", "hf_finetune.cli", "watch", str(folder)]
    with subprocess.Popen(
        line, env=environment_of_a_user, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True,
        preexec_fn=lambda: signal.signal(signal.SIGINT, signal.default_int_handler),
    ) as process:  # fmt: skip
        assert process.stdout.readline() == "run: running, step 40 of 100 (40%)\n"
        process.send_signal(signal.SIGINT)
        _, said = process.communicate(timeout=60)
    assert process.returncode == 130
    assert said.splitlines()[-1] == "interrupted (Ctrl-C): the view is closed, the run is left as it is"
    assert "Traceback" not in said


def test_a_page_of_several_runs_cannot_be_watched(tmp_path):
    folders = [str(run_folder(tmp_path / name, report(), manifest())) for name in "ab"]
    with pytest.raises(ConfigError, match="--watch: shows one run; name one folder, or leave it out"):
        CliRunner().invoke(app, ["report", *folders, "--watch"], catch_exceptions=False)


def test_the_page_of_a_run_that_has_only_begun_is_waited_for(tmp_path, monkeypatch):
    folder, pauses = tmp_path / "run", []
    folder.mkdir()
    hold(folder)

    def pause(seconds: float) -> None:
        pauses.append(seconds)
        if len(pauses) == 2:
            run_folder(folder, report(), manifest())

    monkeypatch.setattr(page.time, "sleep", pause)
    done = CliRunner().invoke(app, ["report", str(folder), "--watch"], catch_exceptions=False)
    assert done.stderr == f"{folder}: nothing is written yet, the run is waited for\n"
    assert done.stdout.endswith(f"{folder / 'report.html'} is written\n")
    assert (pauses, (folder / "report.html").is_file()) == ([1, 1], True)
    empty = tmp_path / "none"
    empty.mkdir()
    with pytest.raises(ConfigError, match="holds nothing of a run"):
        CliRunner().invoke(app, ["report", str(empty)], catch_exceptions=False)


def test_what_is_no_run_is_refused(tmp_path: Path):
    (tmp_path / "thesis.docx").touch()
    with pytest.raises(ConfigError, match="holds nothing of a run"):
        CliRunner().invoke(app, ["watch", str(tmp_path)], catch_exceptions=False)
