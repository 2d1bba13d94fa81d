"""What this machine can do, for `hf-finetune doctor`, `report.json` and `manifest.json`."""

from __future__ import annotations

import importlib.metadata
import os
import platform
import shutil
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Literal

from packaging.requirements import Requirement
from packaging.version import Version

from hf_finetune.config.hardware import detect_hardware
from hf_finetune.project_files import shipped

# What a run's figures depend on.
STACK = (
    *("hf-finetune", "torch", "transformers", "accelerate", "datasets", "evaluate", "tokenizers", "safetensors"),
    *("huggingface_hub", "peft", "trl", "bitsandbytes", "numpy", "pyarrow"),
)

# Set by a launcher together; one without the others makes a process wait for peers that never come.
RENDEZVOUS = ("RANK", "WORLD_SIZE", "MASTER_ADDR", "MASTER_PORT")

GIB = 2**30


@dataclass(frozen=True)
class Device:
    """Something to compute on, and the precisions that training may ask of it."""

    kind: Literal["cpu", "cuda", "mps"]
    name: str
    memory_gib: float
    precisions: tuple[str, ...]


@dataclass(frozen=True)
class MachineFacts:
    """No host name, user name or path is among them."""

    python: str
    system: str
    cores: int
    devices: tuple[Device, ...]
    versions: dict[str, str]
    disk_free_gib: float
    offline: bool


@dataclass(frozen=True)
class Finding:
    """Something to know before a run; a `problem` will stop or hang one."""

    level: Literal["ok", "warn", "problem"]
    what: str
    remedy: str = ""


def machine_facts() -> MachineFacts:
    """Ask the machine; imports torch."""
    return MachineFacts(
        python=platform.python_version(),
        system=f"{platform.system()} {platform.machine()}",
        cores=os.cpu_count() or 1,
        devices=(_cpu(), *_accelerators()),
        versions=versions(),
        disk_free_gib=shutil.disk_usage(".").free / GIB,
        offline=os.environ.get("HF_HUB_OFFLINE", "").lower() in ("1", "true", "yes", "on"),
    )


def report_environment() -> dict[str, Any]:
    """The `environment` part of `report.json`."""
    facts = asdict(machine_facts())
    del facts["disk_free_gib"]
    return facts


def versions() -> dict[str, str]:
    """Installed versions of the stack; what is not installed is left out."""
    found = {}
    for name in STACK:
        try:
            found[name] = importlib.metadata.version(name)
        except importlib.metadata.PackageNotFoundError:
            continue
    return found


def tested_versions() -> dict[str, str]:
    """The exact versions that the tests run with: constraints.txt."""
    pins = shipped("constraints.txt").read_text(encoding="utf-8").splitlines()
    return dict(line.split("==") for line in pins if "==" in line)


def diagnose(facts: MachineFacts, environment: Mapping[str, str]) -> list[Finding]:
    """Everything that a user should know before a run on this machine, problems first."""
    findings = [*_unsupported(facts.versions), *_untested(facts.versions), *_rendezvous(environment)]
    if facts.disk_free_gib < 2:
        findings.append(Finding("warn", f"{facts.disk_free_gib:.1f} GiB are free here", "checkpoints need room"))
    if all(device.kind == "cpu" for device in facts.devices):
        bf16 = "bf16" in facts.devices[0].precisions
        hint = "train.bf16=true is faster here" if bf16 else "leave train.bf16 off: this CPU computes it slowly"
        findings.append(Finding("ok", "no accelerator: --on cpu", hint))
    order = ("problem", "warn", "ok")
    return sorted(findings, key=lambda finding: order.index(finding.level))


def _cpu() -> Device:
    import psutil

    fast = detect_hardware().fast_bf16_on_cpu
    precisions = ("fp32", "bf16", "4-bit") if fast else ("fp32", "4-bit")
    return Device("cpu", _cpu_name(), psutil.virtual_memory().total / GIB, precisions)


def _cpu_name() -> str:
    information = Path("/proc/cpuinfo")
    if information.is_file():
        for line in information.read_text(encoding="utf-8", errors="replace").splitlines():
            if line.startswith("model name"):
                return line.partition(":")[2].strip()
    return platform.processor() or platform.machine()


def _accelerators() -> list[Device]:
    import torch

    devices = []
    for index in range(torch.cuda.device_count()):
        properties = torch.cuda.get_device_properties(index)
        half = ("bf16", "fp16") if properties.major >= 8 else ("fp16",)
        devices.append(
            Device("cuda", properties.name, properties.total_memory / GIB, ("fp32", *half, "8-bit", "4-bit"))
        )
    if torch.backends.mps.is_available():
        devices.append(Device("mps", "Apple GPU", torch.mps.recommended_max_memory() / GIB, ("fp32", "bf16", "fp16")))
    return devices


def _unsupported(installed: Mapping[str, str]) -> list[Finding]:
    """Versions outside the ranges that this package declares."""
    findings = []
    for text in importlib.metadata.requires("hf-finetune") or []:
        requirement = Requirement(text)
        version = installed.get(requirement.name)
        wanted = requirement.marker is None or requirement.marker.evaluate({"extra": ""})
        if version is not None and wanted and Version(version) not in requirement.specifier:
            what = f"{requirement.name} {version} is installed, {requirement.specifier} is needed"
            findings.append(Finding("problem", what, f"pip install '{requirement.name}{requirement.specifier}'"))
    return findings


def _untested(installed: Mapping[str, str]) -> list[Finding]:
    pins = tested_versions()
    differing = [
        f"{name} {version} (tested: {pins[name]})"
        for name, version in installed.items()
        if name in pins and Version(version).public != Version(pins[name]).public
    ]
    if not differing:
        return [Finding("ok", "all versions are the tested ones")]
    return [Finding("warn", f"not the tested versions: {', '.join(differing)}", "pip install -c constraints.txt")]


def _rendezvous(environment: Mapping[str, str]) -> list[Finding]:
    here = [name for name in RENDEZVOUS if name in environment]
    missing = [name for name in RENDEZVOUS if name not in environment]
    if not here or not missing:
        return []
    what = f"{', '.join(here)} set without {', '.join(missing)}: a run would wait for other processes"
    return [Finding("problem", what, f"unset {' '.join(here)}")]
