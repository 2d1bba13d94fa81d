"""What `hf-finetune train` says of the processes that it has started."""

from __future__ import annotations

import gc
import os
import time

import pytest
from accelerate.commands import launch

from hf_finetune.cli.launcher import _run_accelerate_launch, find_accelerate_config
from hf_finetune.cli.launcher import launch as launch_run
from hf_finetune.errors import SECONDS_BEHIND_THE_FIRST, DataError
from hf_finetune.folders import release_run_folders

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
    threshold, environment = gc.get_threshold(), dict(os.environ)
    yield
    os.environ.clear()
    os.environ.update(environment)
    gc.set_threshold(*threshold)


def test_one_of_several_processes_that_the_system_has_ended_is_named(launched_here, tmp_path, caplog):
    script = tmp_path / "ended.py"
    script.write_text(ENDED)
    where = ["--config_file", str(find_accelerate_config("cpu_2proc")), "--main_process_port", "0"]
    assert _run_accelerate_launch([*where, str(script)]) == 137
    said = "process 1 was ended by SIGKILL (the system ends a process so that takes too much memory)"
    assert said in caplog.text


# Rank 1 is the first to look at the rows, and the slower one to say what is wrong with them.
AT_FAULT = """
import os, sys, time
from pathlib import Path
from hf_finetune.cache import holding
from hf_finetune.errors import DataError, Problem, user_errors
holding.SECONDS_AFTER_THE_FIRST = 0.0
path = Path(sys.argv[1])
with user_errors():
    while os.environ["RANK"] == "0" and not path.with_name(".rows.lock").exists():
        time.sleep(0.01)
    with holding.hold_entry(path):
        print("read by rank", os.environ["RANK"], file=sys.stderr)
        time.sleep(0.3)
        raise DataError(Problem("is no row", "mend it", "rows.jsonl", 3))
"""


def test_rows_at_fault_are_read_by_one_process_and_said_once_and_at_once(launched_here, tmp_path, capfd):
    script = tmp_path / "at_fault.py"
    script.write_text(AT_FAULT)
    where = ["--config_file", str(find_accelerate_config("cpu_2proc")), "--main_process_port", "0"]
    began = time.monotonic()
    assert _run_accelerate_launch([*where, str(script), str(tmp_path / "rows.arrow")]) == 2
    assert time.monotonic() - began < SECONDS_BEHIND_THE_FIRST
    assert capfd.readouterr().err.splitlines() == ["read by rank 1", "rows.jsonl:3: is no row; mend it"]


@pytest.mark.parametrize(("output_dir", "said"), [("../elsewhere/run", True), ("runs/one", False), ("./one", False)])
def test_a_run_folder_outside_the_working_folder_is_said_before_all_else(
    launched_here, tmp_path, monkeypatch, caplog, output_dir, said
):
    caplog.set_level("INFO")
    (tmp_path / "here" / "base").mkdir(parents=True)
    monkeypatch.chdir(tmp_path / "here")
    (tmp_path / "here" / "base" / "config.json").write_text("{}")
    (tmp_path / "here" / "rows.jsonl").write_text('{"nothing": 1}\n')
    run_file = f"recipe: sft\nmodel: {{path: base}}\ndata: {{train: rows.jsonl}}\noutput_dir: {output_dir}\n"
    (tmp_path / "here" / "run.yaml").write_text(run_file)
    with pytest.raises(DataError):
        launch_run(["run.yaml"], "cpu")
    release_run_folders()
    first = caplog.records[0].getMessage()
    outside = f"the run is written into {tmp_path}/elsewhere/run, outside the working folder (output_dir)"
    assert (first == outside) is said
