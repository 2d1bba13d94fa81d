"""What is read of the `accelerate launch` that started a process."""

from __future__ import annotations

import os
import subprocess
import sys

import pytest

from hf_finetune.environment.launched import read_launch_options, select_launch_options


@pytest.mark.parametrize(
    ("command", "kept"),
    [
        ("python /env/bin/accelerate launch --config_file a/b/cpu.yaml x.py --cpu", "--config_file b/cpu.yaml"),
        ("python /env/bin/accelerate launch --config_file=cpu.yaml --quiet x.py", "--config_file cpu.yaml"),
        ("python -m accelerate.commands.launch --num_processes 2 --cpu x.py", "--num_processes 2 --cpu"),
        ("/env/bin/accelerate-launch --main_process_ip 10.0.0.7 --mixed_precision bf16 x.py", "--mixed_precision bf16"),
        ("python /env/bin/accelerate launch x.py --config_file of-the-script.yaml", ""),
        ("python /env/bin/accelerate config --config_file a.yaml", ""),
        ("python recipes/sft.py --config_file launch", ""),
        ("bash", ""),
        ("", ""),
    ],
)
def test_what_says_where_a_run_ran_is_kept_without_paths_and_addresses(command, kept):
    assert " ".join(select_launch_options(command.split())) == kept


def test_a_process_that_nothing_launched_has_no_options():
    assert read_launch_options() == []


def test_the_options_are_those_of_the_parent(tmp_path):
    (tmp_path / "accelerate").write_text("import subprocess, sys; subprocess.run([sys.executable, sys.argv[-1]])")
    child = tmp_path / "child.py"
    child.write_text("from hf_finetune.environment.launched import read_launch_options; print(read_launch_options())")
    launch = [sys.executable, str(tmp_path / "accelerate"), "launch", "--config_file", "/a/b/c.yaml", str(child)]
    done = subprocess.run(launch, capture_output=True, text=True, check=True)
    assert done.stdout.strip() == str(["--config_file", "b/c.yaml"])


LAUNCHER = """
import os, subprocess, sys
child = "from hf_finetune.environment.launched import is_set_by_the_launcher as ask; print(ask('OMP_NUM_THREADS'))"
environment = {**os.environ, "OMP_NUM_THREADS": "7", "ACCELERATE_MIXED_PRECISION": "no"}
subprocess.run([sys.executable, "-c", child], env=environment)
"""


@pytest.mark.parametrize(
    ("options", "given", "by_the_launcher"),
    [
        ([], {}, True),
        (["--num_cpu_threads_per_process", "7"], {}, False),
        (["--num_cpu_threads_per_process=7"], {}, False),
        ([], {"OMP_NUM_THREADS": "7"}, False),
    ],
)
def test_a_number_of_threads_is_the_launchers_unless_its_user_has_asked_for_it(
    tmp_path, options, given, by_the_launcher
):
    (tmp_path / "accelerate").write_text(LAUNCHER)
    environment = {name: value for name, value in os.environ.items() if name != "OMP_NUM_THREADS"} | given
    launch = [sys.executable, str(tmp_path / "accelerate"), "launch", *options, "x.py"]
    done = subprocess.run(launch, capture_output=True, text=True, check=True, env=environment)
    assert done.stdout.strip() == str(by_the_launcher)
