"""Out of memory: one message with the sizes and the settings that help, an exit code of its own, the log kept."""

from __future__ import annotations

import errno
import json
import re
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch

from hf_finetune.config import load_run
from hf_finetune.errors import ConfigError, OutOfMemory, Problem, machine_errors
from hf_finetune.memory import advise_when_out_of_memory, describe_memory_error, forget_advice
from hf_finetune.training import suggest_memory_settings

ROOT = Path(__file__).resolve().parent.parent
CUDA = "CUDA out of memory. Tried to allocate 2.50 GiB. GPU 0 has a total capacity of 139.80 GiB."
SIZES = r"; this process has [\d.,]+ [GM]iB, and [\d.,]+ [GM]iB are available"


def allocate_by_torch() -> object:
    return torch.empty(2**50)


def allocate_by_numpy() -> object:
    return np.ones((2**50,), dtype=np.float64)


def allocate_by_python() -> object:
    return bytearray(2**60)


@pytest.mark.parametrize(
    ("allocate", "asked"),
    [
        (allocate_by_torch, ": 4,194,304.0 GiB were asked for"),
        (allocate_by_numpy, ": 8,388,608.0 GiB were asked for"),
        (allocate_by_python, ""),
    ],
)
def test_what_every_library_raises_is_one_message(allocate, asked):
    forget_advice()  # of another test's run
    said = f"^out of memory{re.escape(asked)}{SIZES}.*; give it smaller"
    with pytest.raises(OutOfMemory, match=said) as raised, machine_errors():
        allocate()
    assert raised.value.exit_code == 7


def test_what_a_run_advises_is_forgotten_with_it():
    advise_when_out_of_memory(lambda: "train smaller")
    for remedy in ("; train smaller", "; give it smaller"):
        with pytest.raises(OutOfMemory, match=remedy), machine_errors():
            allocate_by_python()


def test_a_gpu_and_the_system_run_out_as_well():
    assert describe_memory_error(torch.OutOfMemoryError(CUDA))[0].startswith("out of memory: 2.5 GiB were asked for")
    assert describe_memory_error(RuntimeError("CUDA error: CUBLAS_STATUS_ALLOC_FAILED when calling x")) is not None
    assert describe_memory_error(OSError(errno.ENOMEM, "Cannot allocate memory")) is not None
    assert describe_memory_error(OSError(errno.ENOMEM, "Not enough space")) is not None, "in Windows' words"
    for other in (RuntimeError("size mismatch"), OSError(errno.ENOSPC, "No space left"), ValueError("memory")):
        assert describe_memory_error(other) is None


def test_other_errors_pass():
    for other in (ConfigError(Problem("x")), RuntimeError("x"), KeyboardInterrupt()):
        with pytest.raises(type(other)), machine_errors():
            raise other


@pytest.mark.parametrize(
    ("config", "settings", "said"),
    [
        (
            "sft",
            ("train.per_device_train_batch_size=4", "train.gradient_accumulation_steps=2", "train.max_length=512"),
            "train.per_device_train_batch_size=1 with train.gradient_accumulation_steps=8 (the same training), or "
            "train.max_length=256, or train.gradient_checkpointing=true",
        ),
        (
            "char_model",
            ("train.per_device_train_batch_size=1", "train.gradient_checkpointing=true", "data.block_size=64"),
            "train.per_device_eval_batch_size=1 (the training batch is 1 already), or data.block_size=32, or "
            "a smaller model.scratch",
        ),
        ("lora", ("train.gradient_checkpointing=true",), "model.load_in_4bit=true"),
        ("sft", ("train.gradient_checkpointing=true",), "recipe: lora"),
    ],
)
def test_three_settings_are_named_that_fit_the_run(config, settings, said, monkeypatch, tmp_path):
    monkeypatch.chdir(ROOT)
    file = f"recipes/configs/{config}.yaml"
    if config in ("sft", "lora"):
        (tmp_path / "base").mkdir()
        settings = (*settings, f"model.path={tmp_path}/base")
    run = load_run([file, *settings], {"char_model": "continued_pretraining"}.get(config, config))
    assert suggest_memory_settings(run).endswith(said)
    assert suggest_memory_settings(run).count(", or ") == 2


# The address space that a child may use beyond what it has when the second step begins.
RUN_OUT = """
import resource, sys, runpy
import psutil
from hf_finetune.training.trainers.base import TrainerMixin

step = TrainerMixin.training_step
def limited(self, *args, **kwargs):
    if self.state.global_step == 2:
        room = psutil.Process().memory_info().vms + 48 * 2**20
        resource.setrlimit(resource.RLIMIT_AS, (room, resource.RLIM_INFINITY))
        import torch
        held = [torch.ones(2**20) for _ in range(4096)]
    return step(self, *args, **kwargs)
TrainerMixin.training_step = limited
sys.argv = ["recipes/continued_pretraining.py", *sys.argv[1:]]
runpy.run_path(sys.argv[0], run_name="__main__")
"""


def test_a_training_that_runs_out_of_memory_says_what_to_set_and_keeps_its_log(environment_of_a_user, tmp_path):
    settings = ("model.scratch.hidden_size=32", "model.scratch.num_hidden_layers=1", "train.logging_steps=1")
    settings += ("train.eval_strategy=no", "train.use_cpu=true", "train.max_steps=9", f"output_dir={tmp_path}/run")
    command = [sys.executable, "-c", RUN_OUT, "recipes/configs/char_model.yaml", *settings]
    done = subprocess.run(
        command, cwd=ROOT, env=environment_of_a_user, capture_output=True, text=True, timeout=200, check=False
    )
    assert done.returncode == 7, done.stderr
    assert "Traceback" not in done.stderr
    last = done.stderr.splitlines()[-1]
    assert re.match(r"out of memory: 4 MiB were asked for; this process has \d+ MiB, and", last), last
    assert re.search(r"its limit is [\d.]+ GiB \(ulimit -v\); set train.per_device_train_batch_size=1 with", last), last
    kept = [json.loads(line) for line in (tmp_path / "run" / "log.jsonl").read_text().splitlines()]
    assert [entry["step"] for entry in kept if "loss" in entry] == [1, 2]
    assert kept[-1].get("ended")
    shown = subprocess.run(
        [sys.executable, "-m", "hf_finetune.cli", "diagnose", f"{tmp_path}/run"],
        env=environment_of_a_user, capture_output=True, text=True, check=True,
    )  # fmt: skip
    assert f"{tmp_path}/run" in shown.stdout
