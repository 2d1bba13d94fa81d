"""Facts about this machine and its installation, for `hf-finetune doctor`, `report.json` and `manifest.json`."""

from __future__ import annotations

import importlib.metadata
import os
import platform
import shutil
import sys
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Literal

import yaml
from packaging.requirements import Requirement
from packaging.version import Version

from hf_finetune.config.hardware import detect_hardware
from hf_finetune.errors import EnvironmentProblem, Problem
from hf_finetune.project_files import shipped

# Packages whose versions may change the metrics of a run.
STACK = (
    *("hf-finetune", "torch", "transformers", "accelerate", "datasets", "evaluate", "tokenizers", "safetensors"),
    *("huggingface_hub", "peft", "trl", "bitsandbytes", "numpy", "pyarrow"),
)

# Variables that a launcher sets together for each process, so that the processes find each other (env:// of torch):
# https://docs.pytorch.org/docs/stable/distributed.html#environment-variable-initialization
RENDEZVOUS = ("RANK", "WORLD_SIZE", "MASTER_ADDR", "MASTER_PORT")

# Instructions that make bf16 fast on a CPU, as Linux names them.
FAST_BF16 = ("avx512_bf16", "amx_bf16", "bf16")

GIB = 2**30


@dataclass(frozen=True)
class Device:
    """A CPU or accelerator, and the precisions that training can use on it."""

    kind: Literal["cpu", "cuda", "mps"]
    name: str
    capability: str
    """A GPU's compute capability; a CPU's instructions for bf16."""
    memory_gib: float
    precisions: tuple[str, ...]


@dataclass(frozen=True)
class MachineFacts:
    """Facts about the machine; a host name, user name or path is never among them."""

    python: str
    system: str
    cores: int
    devices: tuple[Device, ...]
    versions: dict[str, str]
    disk_free_gib: float
    offline: bool
    gpu_driver: bool
    """NVIDIA's driver is loaded, whether or not torch sees a GPU."""
    accelerate_default: dict[str, Any] | None
    """What `accelerate launch` uses without --config_file, in part."""


@dataclass(frozen=True)
class Finding:
    """A remark about the machine; a `problem` stops or hangs a run."""

    level: Literal["ok", "warn", "problem"]
    what: str
    remedy: str = ""


def machine_facts() -> MachineFacts:
    """Collect the facts about this machine; imports torch."""
    return MachineFacts(
        python=platform.python_version(),
        system=f"{platform.system()} {platform.machine()}",
        cores=_count_cores(),
        devices=(_describe_cpu(), *_list_accelerators()),
        versions=versions(),
        disk_free_gib=shutil.disk_usage(".").free / GIB,
        offline=os.environ.get("HF_HUB_OFFLINE", "").lower() in ("1", "true", "yes", "on"),
        gpu_driver=Path("/proc/driver/nvidia/version").is_file(),
        accelerate_default=_read_accelerate_default(),
    )


def report_environment() -> dict[str, Any]:
    """Collect the `environment` part of `report.json`."""
    of_the_moment = ("disk_free_gib", "accelerate_default")
    return {name: value for name, value in asdict(machine_facts()).items() if name not in of_the_moment}


def versions() -> dict[str, str]:
    """Look up the installed versions of the stack; packages that are not installed are left out."""
    found = {}
    for name in STACK:
        try:
            found[name] = importlib.metadata.version(name)
        except importlib.metadata.PackageNotFoundError:
            continue
    return found


def tested_versions() -> dict[str, str]:
    """Read the exact versions that the tests run with, from constraints.txt."""
    pins = shipped("constraints.txt").read_text(encoding="utf-8").splitlines()
    return dict(line.split("==") for line in pins if "==" in line)


def check_versions() -> None:
    """Raise `EnvironmentProblem` that names every package whose version is outside the declared range.

    Imports none of them: an import that fails halfway would give a worse message.
    """
    problems = [finding for finding in _unsupported(versions()) if finding.level == "problem"]
    if problems:
        raise EnvironmentProblem([Problem(finding.what, finding.remedy) for finding in problems])


def diagnose(facts: MachineFacts, environment: Mapping[str, str]) -> list[Finding]:
    """List what a user should know before a run on this machine, problems first."""
    findings = [
        *_unsupported(facts.versions),
        *_untested(facts.versions),
        *_rendezvous(environment),
        *_unseen_gpu(facts, environment),
        *_foreign_default(facts),
    ]
    if facts.disk_free_gib < 2:
        findings.append(Finding("warn", f"{facts.disk_free_gib:.1f} GiB are free here", "checkpoints need room"))
    if all(device.kind == "cpu" for device in facts.devices):
        bf16 = "bf16" in facts.devices[0].precisions
        hint = "train.bf16=true is faster here" if bf16 else "leave train.bf16 off: this CPU computes it slowly"
        findings.append(Finding("ok", "no accelerator: --on cpu", hint))
    order = ("problem", "warn", "ok")
    return sorted(findings, key=lambda finding: order.index(finding.level))


def _count_cores() -> int:
    """Count the cores that this process may use."""
    # os.cpu_count() counts the whole machine, also in a container that may use two of its cores.
    if sys.platform == "linux":
        return len(os.sched_getaffinity(0))
    return os.cpu_count() or 1


def _describe_cpu() -> Device:
    flags = detect_hardware().cpu_flags
    capability = " ".join(name for name in FAST_BF16 if name in flags)
    precisions = ("fp32", *(("bf16",) if capability else ()), *_list_quantized("4-bit"))
    return Device("cpu", _read_cpu_name(), capability, _read_memory() / GIB, precisions)


def _read_memory() -> int:
    """Read how many bytes this process may use: those of the machine, or the limit of its container (cgroup v2)."""
    import psutil

    total: int = psutil.virtual_memory().total
    limit = Path("/sys/fs/cgroup/memory.max")
    text = limit.read_text(encoding="ascii").strip() if limit.is_file() else "max"
    return total if text == "max" else min(total, int(text))


def _list_quantized(*names: str) -> tuple[str, ...]:
    # All of them or none: bitsandbytes, an extra, does the quantization.
    return names if "bitsandbytes" in versions() else ()


def _read_cpu_name() -> str:
    information = Path("/proc/cpuinfo")
    if information.is_file():
        for line in information.read_text(encoding="utf-8", errors="replace").splitlines():
            if line.startswith("model name"):
                return line.partition(":")[2].strip()
    return platform.processor() or platform.machine()


def _list_accelerators() -> list[Device]:
    import torch

    devices = []
    for index in range(torch.cuda.device_count()):
        properties = torch.cuda.get_device_properties(index)
        half = ("bf16", "fp16") if properties.major >= 8 else ("fp16",)
        precisions = ("fp32", *half, *_list_quantized("8-bit", "4-bit"))
        capability = f"{properties.major}.{properties.minor}"
        devices.append(Device("cuda", properties.name, capability, properties.total_memory / GIB, precisions))
    if torch.backends.mps.is_available():
        devices.append(
            Device("mps", "Apple GPU", "", torch.mps.recommended_max_memory() / GIB, ("fp32", "bf16", "fp16"))
        )
    return devices


def _read_accelerate_default() -> dict[str, Any] | None:
    from accelerate.commands.config.config_args import default_config_file

    path = Path(default_config_file)
    if not path.is_file():
        return None
    try:
        settings = yaml.safe_load(path.read_text(encoding="utf-8"))
    except (yaml.YAMLError, UnicodeDecodeError):
        settings = None
    # Only these: the file may also name hosts and their addresses.
    names = ("distributed_type", "num_machines", "num_processes", "use_cpu")
    return {name: settings[name] for name in names if name in settings} if isinstance(settings, dict) else {}


def _unsupported(installed: Mapping[str, str]) -> list[Finding]:
    """Find versions outside the declared ranges: a problem, or for the package of an extra a warning."""
    findings = []
    for text in importlib.metadata.requires("hf-finetune") or []:
        requirement = Requirement(text)
        version = installed.get(requirement.name)
        # A nightly build of torch (2.14.0.dev20260801) is in the range if its release is.
        if version is not None and not requirement.specifier.contains(version, prereleases=True):
            needed = requirement.marker is None or requirement.marker.evaluate({"extra": ""})
            what = f"{requirement.name} {version} is installed, {requirement.specifier} is needed"
            remedy = f"pip install '{requirement.name}{requirement.specifier}'"
            findings.append(Finding("problem" if needed else "warn", what, remedy))
    return list(dict.fromkeys(findings))


def _untested(installed: Mapping[str, str]) -> list[Finding]:
    pins = tested_versions()
    differing = [
        f"{name} {version} (tested: {pins[name]})"
        for name, version in installed.items()
        if name in pins and Version(version).public != Version(pins[name]).public
    ]
    if not differing:
        return [Finding("ok", "all versions are the tested ones")]
    remedy = "in the clone of hf-finetune: pip install -c constraints.txt ."
    return [Finding("warn", f"not the tested versions: {', '.join(differing)}", remedy)]


def _rendezvous(environment: Mapping[str, str]) -> list[Finding]:
    """Find variables that a launcher left behind, and that make accelerate and torch look for other processes."""
    # accelerate 1.15 takes any LOCAL_RANK but -1 for a launch of several processes (state.py). torch then raises if one
    # of RENDEZVOUS is missing, and else waits for processes that nobody started.
    several = environment.get("WORLD_SIZE", "1") not in ("", "1")
    if not several and "LOCAL_RANK" not in environment:
        return []
    here = [name for name in (*RENDEZVOUS, "LOCAL_RANK") if name in environment]
    missing = [name for name in RENDEZVOUS if name not in environment]
    remedy = f"unset {' '.join(here)}"
    if missing:
        what = f"{', '.join(here)} set without {', '.join(missing)}: a run would look for other processes and fail"
        return [Finding("problem", what, remedy)]
    if several:
        what = f"{', '.join(here)} are set: a run from this shell would wait for other processes"
        return [Finding("warn", what, f"{remedy}, unless a launcher set them for it")]
    return []


def _unseen_gpu(facts: MachineFacts, environment: Mapping[str, str]) -> list[Finding]:
    if not facts.gpu_driver or any(device.kind == "cuda" for device in facts.devices):
        return []
    hidden = environment.get("CUDA_VISIBLE_DEVICES")
    if hidden is not None:
        return [Finding("warn", f"CUDA_VISIBLE_DEVICES='{hidden}' hides every GPU", "unset CUDA_VISIBLE_DEVICES")]
    what = f"NVIDIA's driver is here, but torch {facts.versions.get('torch')} sees no GPU"
    return [Finding("warn", what, "install the torch that fits the driver: https://pytorch.org/get-started/locally")]


def _foreign_default(facts: MachineFacts) -> list[Finding]:
    """Find a default configuration of accelerate that was written for another machine."""
    # `accelerate launch` reads it without a word whenever --config_file is missing. `accelerate config` itself writes
    # counts that do not fit: https://github.com/huggingface/accelerate/issues/2818
    settings = facts.accelerate_default or {}
    gpus = sum(device.kind == "cuda" for device in facts.devices)
    asked = []
    if settings.get("num_machines", 1) not in (None, 1):
        asked.append(f"{settings['num_machines']} machines")
    kind = str(settings.get("distributed_type", "NO"))
    on_cpu = settings.get("use_cpu") or kind in ("NO", "MULTI_CPU")
    processes = settings.get("num_processes")
    if not on_cpu and isinstance(processes, int) and processes > gpus:
        asked.append(f"{processes} GPUs ({kind})")
    if not asked:
        return []
    what = f"accelerate's default configuration asks for {' and '.join(asked)}; there are {gpus} GPUs here"
    remedy = "pass --config_file to accelerate launch, as hf-finetune train does, or run accelerate config again"
    return [Finding("warn", what, remedy)]
