"""docs/distributed.md: its tables are computed again, and its commands are read as on the machines they are for."""

from __future__ import annotations

import os
import re
import runpy
import shlex
import stat
import subprocess
from pathlib import Path

import pytest
import yaml
from accelerate.utils.other import get_free_port
from typer.testing import CliRunner

from hf_finetune import interruption
from hf_finetune.cli import app
from hf_finetune.cli import launcher as launching
from hf_finetune.environment import name_restart
from hf_finetune.environment.hardware import Hardware
from hf_finetune.folders import release_run_folders

ROOT = Path(__file__).resolve().parent.parent
PAGE = (ROOT / "docs" / "distributed.md").read_text(encoding="utf-8")
BASH = re.findall(r"```bash\n(.*?)```", PAGE, re.DOTALL)
TABLES = runpy.run_path(str(ROOT / "benchmarks" / "cluster_table.py"))
RUN = """\
recipe: continued_pretraining
model: {scratch: {preset: nano}, tokenizer: {train: {kind: char}}}
data: {train: rows.jsonl}
output_dir: runs/first
"""


@pytest.mark.parametrize("table", ["format_memory", "format_bytes", "format_speed"])
def test_its_tables_are_what_the_formulas_give(table):
    assert TABLES[table]() in PAGE


def test_the_formulas_are_those_of_the_launch_files():
    shape = TABLES["MODELS"]["Llama-3.1-8B"]
    memory_of, parameters = TABLES["memory_of"], shape.parameters
    # What more devices save of each is what the files say is split: of 16 bytes a parameter, 14 and 16.
    for strategy, split in (("multi_gpu", 0), ("fsdp2", 16), ("zero2", 14), ("zero3", 16)):
        saved = memory_of(shape, strategy, 2) - memory_of(shape, strategy, 4)
        assert saved == pytest.approx(split * parameters / 4, rel=1e-6)
    # A ring sends the sum of 4 bytes in parts and the whole back, of which 1/N stays at home.
    assert TABLES["bytes_between"]("multi_gpu", bf16=True) == 8
    compute, sent = TABLES["simulate"](shape, "fsdp2", 8, 16_384, TABLES["Links"](hop=0.0))
    assert sent == pytest.approx(6 * parameters * 7 / 8 / (0.8 * 450e9))
    assert compute == pytest.approx(8 * parameters * 16_384 / (0.4 * 989e12))
    # "at 100 Gbit/s for a machine of 8 GPUs the sending of an 8B model takes 5 seconds a step"
    slow = TABLES["Links"](between=12.5e9, hop=0.0)
    assert TABLES["simulate"](shape, "fsdp2", 512, 16_384, slow)[1] == pytest.approx(4.8, abs=0.1)


@pytest.fixture
def say(tmp_path, monkeypatch):
    """Type a line on a machine of a cluster; returns what is said of it. It has no GPU: that is where the line ends."""
    monkeypatch.chdir(tmp_path)
    Path("run.yaml").write_text(RUN)
    Path("rows.jsonl").write_text('{"text": "one"}\n')
    monkeypatch.setattr(launching, "detect_hardware", lambda: Hardware("cpu"))
    monkeypatch.delenv("CUDA_VISIBLE_DEVICES", raising=False)
    monkeypatch.setattr(interruption, "end_with_parent", lambda: None)

    def say(words: list[str], environment: dict[str, str]) -> str:
        done = CliRunner().invoke(app, words[1:], env=environment)
        release_run_folders()
        return str(done.exception)

    return say


def test_its_lines_are_understood(say):
    lines = [line for block in BASH for line in block.splitlines() if line.startswith("hf-finetune train")]
    assert len(lines) == 3
    for line in lines:
        on = re.search(r"--on (\w+)", line)[1]
        # The port of accelerate may be another test's.
        port = ["--main-process-port", str(get_free_port())] if on.startswith("multi_node") else []
        said = say([*shlex.split(line), *port], name_restart(0, {}))  # what `--max-restarts` starts
        assert said.startswith(f"--on {on}: asks for 8 GPUs, and there is none on this machine")


def test_its_job_of_slurm_starts_one_task_a_machine_and_comes_back_when_it_was_stopped(say, tmp_path):
    script = next(block for block in BASH if block.startswith("#!"))
    assert re.search(r"--ntasks-per-node=1\n", script)
    tools = tmp_path / "tools"
    tools.mkdir()
    # `srun` as it starts the third of four tasks; the run is stopped.
    for name, does in {"srun": 'echo "$@"; exit 143', "scontrol": 'echo "$@"'}.items():
        (tools / name).write_text(f"#!/bin/bash\n{does}\n")
        (tools / name).chmod((tools / name).stat().st_mode | stat.S_IXUSR)
    environment = {**os.environ, "PATH": f"{tools}{os.pathsep}{os.environ['PATH']}", "SLURM_JOB_ID": "7"}
    done = subprocess.run(["bash"], input=script, env=environment, capture_output=True, text=True, check=False)
    assert done.returncode == 143
    started, queued = done.stdout.splitlines()
    assert queued == "requeue 7"
    task = {"SLURM_JOB_NUM_NODES": "4", "SLURM_NODEID": "2", "SLURM_JOB_NODELIST": "gpu[03-06]", "SLURM_PROCID": "2"}
    task |= {"SLURM_STEP_ID": "0", "SLURM_STEP_NUM_TASKS": "4", "SLURM_NTASKS": "4"}
    assert say(shlex.split(started), task).startswith("--on multi_node_fsdp2: asks for 8 GPUs, and there is none")


def test_its_job_of_kubernetes_tells_each_pod_which_one_it_is(say):
    service, job = yaml.safe_load_all(re.search(r"```yaml\n(apiVersion.*?)```", PAGE, re.DOTALL)[1])
    pod = job["spec"]["template"]["spec"]
    [container] = pod["containers"]
    # The pods of an indexed job are named after it, and the service of their subdomain gives them these names.
    assert service["metadata"]["name"] == pod["subdomain"] == job["metadata"]["name"]
    assert service["spec"]["selector"] == {"job-name": job["metadata"]["name"]}
    given = {each["name"]: each.get("value", "1") for each in container["env"]}
    assert given["MASTER_ADDR"] == f"{job['metadata']['name']}-0.{pod['subdomain']}"
    assert int(given["NNODES"]) == job["spec"]["completions"] == job["spec"]["parallelism"]
    said = say(container["command"], given)
    assert said.startswith("--on multi_node_fsdp2: asks for 8 GPUs, and there is none")


@pytest.mark.parametrize("name", sorted(path.stem for path in (ROOT / "accelerate_configs").glob("[!c]*.yaml")))
def test_every_file_is_launched_as_far_as_a_machine_without_gpus_goes(say, name):
    several = ["--machine-rank", "0", "--main-process-ip", "127.0.0.1", "--main-process-port", str(get_free_port())]
    several = several if name.startswith("multi_node") else []
    said = say(["hf-finetune", "train", "run.yaml", "--on", name, *several], {})
    assert re.match(rf"--on {name}: asks for (a GPU|[28] GPUs), and there is none on this machine", said)


def test_its_table_of_files_has_all_of_them():
    files = {path.stem for path in (ROOT / "accelerate_configs").glob("*.yaml")}
    rows = re.findall(r"^\| (`.*?`) \| [a-z]", PAGE, re.MULTILINE)
    assert files <= set(re.findall(r"`(\w+)`", " ".join(rows)))
