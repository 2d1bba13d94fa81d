"""A launch that asks for GPUs runs on them or not at all."""

from __future__ import annotations

import subprocess
from pathlib import Path

import pytest
import yaml
from config.run_files import VALID

import hf_finetune.config.checks as checks
from hf_finetune.config.checks.launch import (
    check_launch_file,
    check_visible,
    gpus_of_file,
    gpus_of_launch,
    read_launch_file,
)
from hf_finetune.environment.hardware import Hardware, detect_hardware
from hf_finetune.errors import ConfigError

NO_GPU, ONE_GPU, TWO_GPUS = Hardware("cpu"), Hardware("cuda", ((9, 0),)), Hardware("cuda", ((9, 0),) * 2)
SIMPLE = {"ACCELERATE_USE_CPU": "False", "ACCELERATE_MIXED_PRECISION": "no"}
TORCHRUN = {"LOCAL_WORLD_SIZE": "2", "ACCELERATE_MIXED_PRECISION": "no"}


def shipped_file(project_root: Path, name: str) -> dict:
    return read_launch_file(project_root / "accelerate_configs" / f"{name}.yaml")


@pytest.mark.parametrize(("name", "gpus"), [("cpu", 0), ("cpu_2proc", 0), ("single_gpu", 1), ("multi_gpu", 2)])
def test_a_shipped_launch_file_asks_for_what_its_name_says(project_root, name, gpus):
    assert gpus_of_file(shipped_file(project_root, name)) == gpus


@pytest.mark.parametrize(
    ("settings", "gpus"),
    [
        ({}, 1),
        ({"use_cpu": "yes"}, 0),
        ({"distributed_type": "FSDP", "num_processes": 16, "num_machines": 2}, 8),
        ({"distributed_type": "MULTI_GPU", "num_processes": 4, "gpu_ids": "0,1,2,3"}, 4),
        ({"distributed_type": "MULTI_CPU", "num_processes": 4}, 0),
        ({"distributed_type": "XLA", "num_processes": 8}, 0),
        ({"distributed_type": None, "num_processes": "many", "num_machines": -3}, 0),
    ],
)
def test_the_gpus_of_a_launch_file_are_those_of_this_machine(settings, gpus):
    assert gpus_of_file(settings) == gpus


@pytest.mark.parametrize(
    ("name", "hardware", "what"),
    [
        ("single_gpu", NO_GPU, "--on single_gpu: asks for a GPU, and there is none .* --on cpu"),
        ("multi_gpu", NO_GPU, "--on multi_gpu: asks for 2 GPUs, and there is none .* --on cpu"),
        ("multi_gpu", ONE_GPU, "asks for 2 GPUs, one a process, and this machine has 1 to see; .* --on single_gpu"),
        ("multi_gpu", Hardware("mps"), "asks for 2 GPUs, one a process, and this machine has 1 to see"),
    ],
)
def test_gpus_that_are_not_there_are_refused(project_root, name, hardware, what):
    with pytest.raises(ConfigError, match=what):
        check_launch_file(name, shipped_file(project_root, name), hardware, use_cpu=False)


def test_gpus_that_are_hidden_are_said_to_be_hidden(project_root, monkeypatch):
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "")
    with pytest.raises(ConfigError, match="CUDA_VISIBLE_DEVICES is empty, which hides every GPU"):
        check_launch_file("multi_gpu", shipped_file(project_root, "multi_gpu"), NO_GPU, use_cpu=False)


@pytest.mark.parametrize(
    ("name", "hardware"),
    [
        ("cpu", NO_GPU),
        ("cpu", ONE_GPU),
        ("cpu_2proc", NO_GPU),
        ("single_gpu", ONE_GPU),
        ("single_gpu", Hardware("mps")),
        ("single_gpu", Hardware("other")),
        ("multi_gpu", TWO_GPUS),
        ("multi_gpu", Hardware("other")),
    ],
)
def test_what_is_there_is_launched(project_root, name, hardware):
    check_launch_file(name, shipped_file(project_root, name), hardware, use_cpu=False)


def test_a_gpu_and_train_use_cpu_contradict_each_other_and_a_launch_on_the_cpu_does_not(project_root):
    with pytest.raises(ConfigError, match=r"asks for a GPU, and train\.use_cpu is true"):
        check_launch_file("single_gpu", shipped_file(project_root, "single_gpu"), ONE_GPU, use_cpu=True)
    check_launch_file("cpu_2proc", shipped_file(project_root, "cpu_2proc"), ONE_GPU, use_cpu=True)


def test_a_gpu_that_the_file_names_does_not_silently_replace_the_one_of_the_environment(project_root):
    single = shipped_file(project_root, "single_gpu")
    with pytest.raises(ConfigError, match="gpu_ids is '0' there, and CUDA_VISIBLE_DEVICES is '3'"):
        check_visible("single_gpu", single, {"CUDA_VISIBLE_DEVICES": "3"})
    for visible in ({}, {"CUDA_VISIBLE_DEVICES": "0"}):
        check_visible("single_gpu", single, visible)
    for other in ("cpu", "cpu_2proc", "multi_gpu"):
        check_visible(other, shipped_file(project_root, other), {"CUDA_VISIBLE_DEVICES": "3"})


@pytest.mark.parametrize("text", ["", "- a\n- b\n", "a: [", "\x00"])
def test_a_file_that_is_no_launch_file_is_one_message(tmp_path, text):
    path = tmp_path / "launch.yaml"
    path.write_text(text)
    with pytest.raises(ConfigError, match="is no accelerate configuration"):
        read_launch_file(path)


@pytest.mark.parametrize(
    ("environment", "gpus"),
    [
        ({}, 0),
        ({"CUDA_VISIBLE_DEVICES": "0"}, 0),
        (SIMPLE, 0),
        (SIMPLE | {"CUDA_VISIBLE_DEVICES": "0"}, 1),
        (SIMPLE | {"CUDA_VISIBLE_DEVICES": ""}, 0),
        (SIMPLE | {"CUDA_VISIBLE_DEVICES": "0", "ACCELERATE_USE_CPU": "True"}, 0),
        (TORCHRUN, 2),
        (TORCHRUN | {"CUDA_VISIBLE_DEVICES": ""}, 2),
        (TORCHRUN | {"CUDA_VISIBLE_DEVICES": "-1,-1"}, 0),
        ({"LOCAL_WORLD_SIZE": "2"}, 0),
    ],
)
def test_what_accelerate_tells_a_recipe_says_how_many_gpus_were_asked_for(environment, gpus):
    assert gpus_of_launch(environment) == gpus


def test_a_recipe_launched_for_gpus_is_refused_without_them_and_with_train_use_cpu(problems, monkeypatch):
    for name, value in TORCHRUN.items():
        monkeypatch.setenv(name, value)
    monkeypatch.delenv("CUDA_VISIBLE_DEVICES", raising=False)
    [problem] = problems(VALID)
    assert str(problem).startswith("accelerate launch: asks for 2 GPUs, and there is none")
    monkeypatch.setattr(checks, "detect_hardware", lambda: TWO_GPUS)
    assert problems(VALID) == []
    [problem] = problems(VALID, "train.use_cpu=true")
    assert "train.use_cpu is true" in problem.what


@pytest.mark.skipif(detect_hardware().accelerator != "cpu", reason="there is a GPU, which the launch would get")
@pytest.mark.parametrize("name", ["single_gpu", "multi_gpu"])
def test_a_launch_for_gpus_ends_before_anything_heavy_is_loaded(
    project_root, environment_of_a_user, preloaded, tmp_path, name
):
    run = ("recipes/configs/char_model.yaml", f"output_dir={tmp_path / 'run'}")
    alone, forked = (
        {key: value for key, value in each.items() if key != "CUDA_VISIBLE_DEVICES"}
        for each in (environment_of_a_user, preloaded)
    )
    options = {"cwd": project_root, "capture_output": True, "text": True, "check": False}
    ours = subprocess.run(["hf-finetune", "train", *run, "--on", name], env=alone, **options)
    assert ours.returncode == 2
    assert ours.stderr.startswith(f"--on {name}: asks for ")
    assert len(ours.stderr.splitlines()) == 1
    command = ["accelerate", "launch", "--config_file", f"accelerate_configs/{name}.yaml"]
    theirs = subprocess.run([*command, "recipes/continued_pretraining.py", *run], env=forked, **options)
    assert theirs.returncode != 0
    assert "accelerate launch: asks for " in theirs.stderr
    assert not (tmp_path / "run").exists()


def test_nothing_heavy_is_imported_to_find_out(project_root, environment_of_a_user):
    code = "import sys, hf_finetune.config.checks.launch, hf_finetune.cli.launcher; print('torch' in sys.modules)"
    done = subprocess.run(
        ["python", "-c", code], cwd=project_root, env=environment_of_a_user, capture_output=True, text=True, check=True
    )
    assert done.stdout.strip() == "False"


def test_two_processes_on_the_cpu_hide_the_gpus_from_whom_they_launch(project_root):
    settings = yaml.safe_load((project_root / "accelerate_configs" / "cpu_2proc.yaml").read_text())
    assert settings["gpu_ids"] == "-1,-1"
