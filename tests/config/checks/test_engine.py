"""What splits a model, against what a run asks of it: refused before a model is loaded, however it was launched."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import yaml
from config.run_files import VALID

import hf_finetune.config.checks as checks
import hf_finetune.config.checks.launch.engine as engines
import hf_finetune.config.checks.machine as checks_machine
from hf_finetune.config import load_run
from hf_finetune.config.checks.launch import check_launch_file, read_launch_file
from hf_finetune.environment.hardware import Hardware
from hf_finetune.errors import ConfigError

FILES = Path(__file__).resolve().parents[3] / "accelerate_configs"
TWO_GPUS = Hardware("cuda", ((9, 0),) * 2)
LORA = """\
recipe: lora
model: {path: base, load_in_4bit: true}
data: {train: train.jsonl}
lora: {r: 4}
output_dir: runs/first
"""
FSDP = {"ACCELERATE_USE_FSDP": "true", "FSDP_VERSION": "2"}
ZERO = {"ACCELERATE_USE_DEEPSPEED": "true"}
LAUNCHES = {
    "fsdp2": FSDP,
    "zero2": ZERO | {"ACCELERATE_DEEPSPEED_ZERO_STAGE": "2"},
    "zero3": ZERO | {"ACCELERATE_DEEPSPEED_ZERO_STAGE": "3"},
}


@pytest.fixture
def on_gpus(monkeypatch):
    """A machine with two GPUs, and every package."""
    monkeypatch.setattr(checks, "detect_hardware", lambda: TWO_GPUS)
    monkeypatch.setattr(engines, "_is_installed", lambda package: True)


def refusals(name: str, run: str, hardware: Hardware = TWO_GPUS, **changes: object) -> list[str]:
    """What `hf-finetune train --on` says of a shipped launch file."""
    path = FILES / f"{name}.yaml"
    Path("run.yaml").write_text(run)
    settings = read_launch_file(path) | changes
    loaded = load_run(["run.yaml"], yaml.safe_load(run)["recipe"])
    try:
        check_launch_file(name, settings, hardware, use_cpu=False, run=loaded, path=path)
    except ConfigError as refused:
        return [str(each) for each in refused.problems]
    return []


CONFLICTS = [
    ("zero3", "muon", "train.optim: muon needs whole matrices, and ZeRO-3"),
    ("zero2", "muon", "train.optim: muon needs whole matrices, and ZeRO-2"),
    ("zero3", "4bit", "model.load_in_4bit: quantized weights are whole numbers, which ZeRO-3"),
    ("fsdp2", "4bit", "model.load_in_4bit: quantized weights are whole numbers, which FSDP2"),
    ("fsdp2", "fsdp", "train.fsdp: the launch splits the model already, by FSDP2"),
    ("zero3", "dora", "lora.use_dora: an adapter that is DoRA, or of an embedding or single rows of one, reads whole"),
    ("zero3", "rows", "lora.trainable_token_indices: an adapter that is DoRA, or of an embedding or single rows"),
    ("zero2", "dora", None),
    ("fsdp2", "dora", None),
    ("zero2", "fsdp", "train.fsdp: the launch splits the model already, by ZeRO-2"),
    ("zero2", "new", "train.optim: muon, by which a new model is trained unless another is named, needs whole matr"),
    ("zero2", "4bit", None),
    ("zero2", "plain", None),
    ("fsdp2", "plain", None),
]
ADAMW = VALID.replace("max_steps: 5", "max_steps: 5\n  optim: adamw_torch")
UNQUANTIZED = LORA.replace(", load_in_4bit: true", "")
RUNS = {
    "muon": VALID.replace("max_steps: 5", "max_steps: 5\n  optim: muon"),
    "4bit": LORA,
    "fsdp": ADAMW.replace("max_steps: 5", "max_steps: 5\n  fsdp: true"),
    "plain": ADAMW,
    "dora": UNQUANTIZED.replace("r: 4", "r: 4, use_dora: true"),
    "rows": UNQUANTIZED.replace("r: 4", "r: 4, trainable_token_indices: [3]"),
    "new": VALID,
}


@pytest.mark.parametrize(("launch", "run", "said"), CONFLICTS)
def test_what_an_engine_cannot_do_is_refused_of_a_launch_file(on_gpus, launch, run, said):
    found = refusals(launch, RUNS[run])
    assert len(found) == (said is not None)
    assert said is None or (found[0].startswith(said) and f"{launch}.yaml" in found[0])


@pytest.mark.parametrize(("launch", "run", "said"), CONFLICTS)
def test_and_of_what_accelerate_has_launched(on_gpus, problems, monkeypatch, launch, run, said):
    for name, value in LAUNCHES[launch].items():
        monkeypatch.setenv(name, value)
    found = problems(RUNS[run])
    assert len(found) == (said is not None)
    if said is not None:
        assert found[0].path == "run.yaml"
        assert said in str(found[0])
        assert "(accelerate launch)" in found[0].what


def test_fsdp_on_a_cpu_is_refused_for_accelerate_would_train_whole_copies(on_gpus):
    [said] = refusals("fsdp2", ADAMW, use_cpu=True)
    assert said.startswith(f"{FILES / 'fsdp2.yaml'}: distributed_type: asks for FSDP2, which splits a model over GPUs")
    assert said.endswith("[HF687]")
    [said] = refusals("fsdp2", ADAMW, use_cpu=True, hardware=Hardware("cpu"))
    assert said.endswith("[HF687]")
    [said] = refusals("fsdp2", ADAMW, num_processes=1, hardware=Hardware("mps"))
    assert said.endswith("[HF687]")
    # Without use_cpu it asks for GPUs as every such file does.
    [said] = refusals("fsdp2", ADAMW, hardware=Hardware("cpu"))
    assert said.startswith("--on fsdp2: asks for 2 GPUs, and there is none")


def test_and_so_it_is_where_accelerate_has_launched_it_or_the_run_file_asks_for_it(only_problem, monkeypatch):
    said = only_problem(VALID, "train={optim: adamw_torch, fsdp: true}")
    assert said.key == "train.fsdp"
    assert said.code == "HF687"
    for name, value in FSDP.items():
        monkeypatch.setenv(name, value)
    assert str(only_problem(ADAMW)).startswith(
        "accelerate launch: asks for FSDP2, which splits a model over GPUs alone"
    )
    monkeypatch.setattr(engines, "needs_gpu", lambda engine: False)
    assert load_run(["run.yaml"], "continued_pretraining").train["optim"] == "adamw_torch"


def test_deepspeed_on_a_cpu_is_refused_where_it_is_not_told_so(on_gpus, only_problem, monkeypatch):
    monkeypatch.delenv("DS_ACCELERATOR", raising=False)
    what = "asks for ZeRO-3 on a CPU, over which DeepSpeed splits a model only where it is told so; set DS_ACCELERATOR"
    [said] = refusals("zero3", ADAMW, use_cpu=True)
    assert said.startswith(f"{FILES / 'zero3.yaml'}: distributed_type: {what}")
    assert said.endswith("[HF687]")
    monkeypatch.setenv("DS_ACCELERATOR", "cpu")
    assert refusals("zero3", ADAMW, use_cpu=True) == []
    # Launched by it: the section of the file does not reach the processes, and train.use_cpu makes plain DDP of it.
    for name, value in LAUNCHES["zero3"].items():
        monkeypatch.setenv(name, value)
    assert load_run(["run.yaml"], "continued_pretraining").train["optim"] == "adamw_torch"
    assert str(only_problem(ADAMW, "train.use_cpu=true")).startswith(f"accelerate launch: {what}")
    monkeypatch.setenv("ACCELERATE_USE_CPU", "true")
    assert only_problem(ADAMW).code == "HF687"


@pytest.mark.parametrize("name", ["ACCELERATE_USE_PARALLELISM_CONFIG", "PARALLELISM_CONFIG_TP_SIZE"])
def test_a_mesh_of_processes_is_refused_that_accelerate_has_launched(on_gpus, only_problem, monkeypatch, name):
    monkeypatch.setenv(name, "true")
    said = only_problem(ADAMW)
    assert str(said).startswith("PARALLELISM_CONFIG: arranges the processes as a mesh")
    assert said.code == "HF721"


def test_fsdp1_is_not_run(on_gpus, only_problem, monkeypatch):
    said = only_problem(VALID, "train={optim: adamw_torch, fsdp: true, fsdp_config: {version: 1}}")
    assert (said.key, said.code) == ("train.fsdp", "HF721")
    monkeypatch.setenv("ACCELERATE_USE_FSDP", "true")  # as a file sets it that names no version
    said = only_problem(ADAMW)
    assert str(said).startswith("accelerate launch: asks for FSDP1, and only FSDP2 is run; set fsdp_version: 2")


def test_deepspeed_that_is_not_installed_is_missed_at_once(on_gpus, only_problem, monkeypatch):
    monkeypatch.setattr(engines, "_is_installed", lambda package: False)
    [said] = refusals("zero2", ADAMW)
    what = "distributed_type: asks for ZeRO-2, and the package deepspeed is not installed; in the clone of hf-finetune"
    what += ': pip install ".[deepspeed]", or take --on fsdp2'
    assert said.startswith(f"{FILES / 'zero2.yaml'}: {what}")
    for name, value in LAUNCHES["zero2"].items():
        monkeypatch.setenv(name, value)
    assert only_problem(ADAMW).code == "HF711"


def test_more_processes_on_the_command_line_than_the_kind_of_launch_starts_are_refused(on_gpus):
    [said] = refusals("cpu", ADAMW, num_processes=4)
    assert said.startswith("cpu: num_processes: asks for 4 processes, and distributed_type: NO starts one; set")
    assert refusals("cpu_2proc", ADAMW, num_processes=4) == []
    [said] = refusals("cpu_2proc", ADAMW, num_processes=100_000)
    assert said.startswith("--on cpu_2proc: asks for 100,000 processes on this machine, and ")


def test_the_stage_is_that_of_the_file_which_deepspeed_reads(on_gpus, only_problem, monkeypatch, tmp_path):
    config = tmp_path / "ds.json"
    config.write_text(json.dumps({"zero_optimization": {"stage": 3}}))
    [said] = refusals("zero2", LORA, deepspeed_config={"deepspeed_config_file": str(config)})
    assert "which ZeRO-3" in said
    monkeypatch.setenv("ACCELERATE_USE_DEEPSPEED", "true")
    monkeypatch.setenv("ACCELERATE_DEEPSPEED_CONFIG_FILE", str(config))
    assert "which ZeRO-3" in only_problem(LORA).what


def test_the_run_file_may_ask_for_the_engine_itself(on_gpus, load, only_problem, monkeypatch):
    monkeypatch.setattr(checks_machine, "_is_installed", lambda package: True)
    assert load(VALID, "train={optim: sgd, fsdp: full_shard auto_wrap, fsdp_config: {fsdp_version: 2}}")
    for given in ("{zero_optimization: {stage: 1}}", """'{"zero_optimization": {"stage": 1}}'"""):
        said = only_problem(VALID, "train.optim=muon", f"train.deepspeed={given}")
        assert said.what.startswith("muon needs whole matrices, and ZeRO-1 (train.deepspeed)")
