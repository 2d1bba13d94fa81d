"""docs/long-runs.md: its commands are run on a run folder, and its example of a log is read."""

from __future__ import annotations

import re
import shlex
from pathlib import Path

from reporting.made_runs import stopped
from typer.testing import CliRunner

from hf_finetune.cli import app
from hf_finetune.reporting.run_log import RunLog

PAGE = (Path(__file__).resolve().parent.parent / "docs" / "long-runs.md").read_text(encoding="utf-8")


def test_its_commands_do_what_is_said(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    stopped(tmp_path / "runs" / "mine")
    commands = re.findall(r"^\$ hf-finetune (.*)", PAGE, re.MULTILINE)
    assert len(commands) >= 5
    for command in commands:
        done = CliRunner().invoke(app, shlex.split(command), catch_exceptions=False)
        assert done.exit_code == 0
        if command.startswith("cache"):
            assert "entries" in done.stdout
            continue
        assert "120 of 300" in done.stdout or '"max_steps": 300' in done.stdout, command


def test_its_log_is_one():
    lines = re.search(r"```json\n(.*?)```", PAGE, re.DOTALL)[1].splitlines(keepends=True)
    log = RunLog()
    for line in lines:
        log.add(line.encode(), "log.jsonl")
    assert log.problems == []
    assert (log.max_steps, log.step, len(log.samples), log.ended) == (300, 100, 1, "OutOfMemoryError")
