"""`--on multi_node`, typed once on each machine: here twice on this one, over 127.0.0.1."""

from __future__ import annotations

import json
import subprocess
from pathlib import Path

import pytest
import yaml
from accelerate.utils.other import get_free_port

from hf_finetune.cli.launcher import launch as launch_run
from hf_finetune.errors import ConfigError
from hf_finetune.run import start_run, start_scoring

ROOT = Path(__file__).resolve().parents[2]


def on_cpu(name: str, path: Path) -> Path:
    """A copy of a shipped launch file with one process on the CPU of each machine."""
    settings = yaml.safe_load((ROOT / "accelerate_configs" / f"{name}.yaml").read_text())
    settings |= {"use_cpu": True, "gpu_ids": "-1", "num_processes": 2}
    path.write_text(yaml.safe_dump(settings))
    return path


def test_two_launches_are_one_run(preloaded, tmp_path):
    run = ["recipes/configs/char_model.yaml", "train.max_steps=2", "train.eval_steps=2", "train.save_steps=2"]
    command = ["hf-finetune", "train", *run, f"output_dir={tmp_path / 'run'}"]
    command += ["--on", str(on_cpu("multi_node", tmp_path / "two.yaml")), "--main-process-port", str(get_free_port())]
    # One is told by the command line, the other by what Slurm sets on the second machine of a job.
    slurm = {"SLURM_JOB_NODELIST": "127.0.0.1", "SLURM_JOB_NUM_NODES": "2", "SLURM_NODEID": "1", "SLURM_PROCID": "1"}
    slurm |= {"SLURM_NTASKS": "2", "SLURM_STEP_ID": "0", "SLURM_STEP_NUM_TASKS": "2"}
    first = ["--machine-rank", "0", "--main-process-ip", "127.0.0.1"]
    environment = {key: value for key, value in preloaded.items() if key != "CUDA_VISIBLE_DEVICES"}
    started = [
        subprocess.Popen([*command, *more], cwd=ROOT, env=environment | given, stderr=subprocess.PIPE, text=True)
        for more, given in ((first, {}), ([], slurm))
    ]
    said = [each.communicate(timeout=120)[1] for each in started]
    assert [each.returncode for each in started] == [0, 0], "\n".join(said)
    assert "machine 0 (of 0 to 1), 1 process on each; the first is at 127.0.0.1, port " in said[0]
    assert "(machine_rank by --machine-rank, main_process_ip by --main-process-ip, " in said[0]
    assert "machine_rank by SLURM_NODEID, main_process_ip by SLURM_JOB_NODELIST" in said[1]
    report = json.loads((tmp_path / "run" / "report.json").read_text())
    assert (report["status"], report["distributed"]["processes"]) == ("done", 2)
    # The second machine writes nothing, and no file of the run says where the first is.
    assert "127.0.0.1" not in (tmp_path / "run" / "manifest.json").read_text()


def test_two_tasks_of_srun_are_refused_however_the_run_is_launched(monkeypatch, tmp_path):
    for name, value in {"PROCID": "1", "NTASKS": "2", "STEP_ID": "0", "STEP_NUM_TASKS": "2"}.items():
        monkeypatch.setenv(f"SLURM_{name}", value)
    monkeypatch.setattr("sys.argv", ["recipes/sft.py", "run.yaml"])
    for launch, line in (
        (lambda: launch_run(["run.yaml"], "cpu"), "hf-finetune train run.yaml --on cpu"),
        (lambda: start_run(["run.yaml"], "sft"), "accelerate launch recipes/sft.py run.yaml"),
        (lambda: start_scoring(["run.yaml"]), "accelerate launch recipes/sft.py run.yaml"),
    ):
        with pytest.raises(ConfigError, match="each would train the whole run in one folder") as refused:
            launch()
        assert str(refused.value).endswith(f"; type: srun --ntasks=1 {line} [HF724]")
