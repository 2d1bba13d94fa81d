"""The GPUs that a launch asks for, against those of this machine: no run on GPUs becomes one on the CPU by itself."""

from __future__ import annotations

import os
from collections.abc import Mapping
from typing import Any

from hf_finetune.environment.hardware import TRUE, Hardware
from hf_finetune.errors import ConfigError, Problem

VISIBLE = "CUDA_VISIBLE_DEVICES"
MOST_ON_A_CORE = 4
"""Processes on the CPU: more on one core are a typo, or end in want of memory."""
# Of an accelerate configuration; the others are for devices that are not looked for here (TPU, NPU, XPU ...).
_ON_GPUS = ("NO", "MULTI_GPU", "FSDP", "DEEPSPEED", "MEGATRON_LM")
# What transformers (5.23) says once the data is tokenized and the model loaded.
NOT_SHARDED = (
    "splits the model over processes, and this launch makes no group of them",
    "launch several processes with a configuration of accelerate, or leave it out",
)
_ON_CPU = "to train on the CPU: --on cpu, which is accelerate_configs/cpu.yaml; hf-finetune doctor says what is seen"


def gpus_of_file(settings: Mapping[str, Any]) -> int:
    """How many GPUs of this machine the settings of an accelerate configuration ask for; 0 where none."""
    kind = str(settings.get("distributed_type", "NO")).upper()
    if is_on_cpu(settings) or kind not in _ON_GPUS:
        return 0
    return max(1, _whole(settings.get("num_processes")) // max(1, _whole(settings.get("num_machines"))))


def is_on_cpu(settings: Mapping[str, Any]) -> bool:
    """Whether the settings of an accelerate configuration keep its processes on the CPU."""
    return _is_true(settings.get("use_cpu")) or _hides_all(str(settings.get("gpu_ids", "")))


def gpus_of_launch(environment: Mapping[str, str]) -> int:
    """How many GPUs of this machine `accelerate launch` asks for, as far as it says so to what it has launched.

    One process on a GPU is told from one that was launched without a configuration by the GPU that is named.
    """
    visible = environment.get(VISIBLE, "")
    if _is_true(environment.get("ACCELERATE_USE_DEEPSPEED")) and is_deepspeed_on_cpu(environment):
        return 0
    if "ACCELERATE_MIXED_PRECISION" not in environment or _hides_all(visible):
        return 0
    if "ACCELERATE_USE_CPU" in environment:
        return 0 if _is_true(environment["ACCELERATE_USE_CPU"]) or not visible.strip() else 1
    return _whole(environment.get("LOCAL_WORLD_SIZE"))


def is_deepspeed_on_cpu(environment: Mapping[str, str]) -> bool:
    """Whether DeepSpeed is told to run on the CPU."""
    return environment.get("DS_ACCELERATOR") == "cpu"


def check_visible(where: str, settings: Mapping[str, Any], environment: Mapping[str, str]) -> None:
    """Refuse a configuration whose `gpu_ids` would take the place of CUDA_VISIBLE_DEVICES. Raises `ConfigError`."""
    ids, visible = named_gpus(settings), environment.get(VISIBLE)
    if gpus_of_file(settings) and ids is not None and visible is not None and visible != ids:
        what = f"gpu_ids is {ids!r} there, and {VISIBLE} is {visible!r}: accelerate would take the first"
        remedy = f"unset {VISIBLE}, or name the GPU in a copy of that file"
        raise ConfigError(Problem(what, remedy, key=f"--on {where}", code="HF685"))


def named_gpus(settings: Mapping[str, Any]) -> str | None:
    """What accelerate sets CUDA_VISIBLE_DEVICES to; None where it leaves that as it is."""
    ids = settings.get("gpu_ids")
    return None if ids is None or str(ids) == "all" else str(ids)


def launch_problem(key: str, asked: int, hardware: Hardware, *, use_cpu: bool) -> Problem | None:
    """What stands between a launch and the GPUs that it asks for; None where nothing does."""
    if not asked:
        return None
    wanted = "a GPU" if asked == 1 else f"{asked} GPUs"
    if use_cpu:
        what = f"asks for {wanted}, and train.use_cpu is true"
        return Problem(what, f"leave train.use_cpu out, or {_ON_CPU}", key=key, code="HF682")
    if hardware.accelerator == "cpu":
        return Problem(f"asks for {wanted}, and {_why_none()}", _ON_CPU, key=key, code="HF682")
    there = len(hardware.capabilities) if hardware.accelerator == "cuda" else 1
    if asked > there and hardware.accelerator != "other":
        what = f"asks for {wanted}, one a process, and this machine has {there} to see"
        return Problem(what, f"set num_processes in its file to {there}, or use --on single_gpu", key=key, code="HF682")
    return None


def crowd_problem(key: str, settings: Mapping[str, Any]) -> Problem | None:
    """What is wrong with a launch of more processes on the CPU than any use has; None where it is not."""
    processes = _whole(settings.get("num_processes")) // max(1, _whole(settings.get("num_machines")))
    cores = os.cpu_count() or 1
    if processes <= MOST_ON_A_CORE * cores:
        return None
    # Each takes hundreds of megabytes, and a typo took a machine down.
    what = f"asks for {processes:,} processes on this machine, and {MOST_ON_A_CORE * cores} are started at most"
    remedy = f"set num_processes to the cores of a machine, here {cores}"
    return Problem(what, remedy, key=key, code="HF606")


def _why_none() -> str:
    if os.environ.get(VISIBLE) == "":
        return f"{VISIBLE} is empty, which hides every GPU"
    return "there is none on this machine that the installed torch can use"


def _hides_all(visible: str) -> bool:
    """CUDA sees no device from the first on that there is none of."""
    return visible.strip().startswith("-1")


def _is_true(value: object) -> bool:
    return value is True or str(value).lower() in TRUE


def _whole(value: object) -> int:
    text = str(value)
    return int(text) if text.isascii() and text.isdigit() and len(text) < 10 else 0
