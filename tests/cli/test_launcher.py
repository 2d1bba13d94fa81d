"""What `hf-finetune train` says of the processes that it has started."""

from __future__ import annotations

import gc

import pytest
from accelerate.commands import launch

from hf_finetune.cli.launcher import _run_accelerate_launch, find_accelerate_config

ENDED = """
import os, signal, time
if os.environ["RANK"] == "1":
    os.kill(os.getpid(), signal.SIGKILL)
time.sleep(60)
"""


@pytest.fixture
def launched_here(monkeypatch):
    """What a launch sets for the process that it is all of, put back."""
    monkeypatch.setattr(launch, "simple_launcher", launch.simple_launcher)
    monkeypatch.setenv("TORCH_CPP_LOG_LEVEL", "ERROR")
    threshold = gc.get_threshold()
    yield
    gc.set_threshold(*threshold)


def test_one_of_several_processes_that_the_system_has_ended_is_named(launched_here, tmp_path, caplog):
    script = tmp_path / "ended.py"
    script.write_text(ENDED)
    where = ["--config_file", str(find_accelerate_config("cpu_2proc")), "--main_process_port", "0"]
    assert _run_accelerate_launch([*where, str(script)]) == 137
    said = "process 1 was ended by SIGKILL (the system ends a process so that takes too much memory)"
    assert said in caplog.text
