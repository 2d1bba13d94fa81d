"""Findings about this machine and its installation: `hf-finetune doctor`."""

from __future__ import annotations

import importlib.metadata
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Literal

from packaging.requirements import Requirement
from packaging.version import Version

from hf_finetune.environment.facts import MachineInfo, get_installed_versions
from hf_finetune.environment.project_files import find_shipped
from hf_finetune.errors import MachineError, Problem

# Variables that a launcher sets together for each process, so that the processes find each other (env:// of torch):
# https://docs.pytorch.org/docs/stable/distributed.html#environment-variable-initialization
RENDEZVOUS = ("RANK", "WORLD_SIZE", "MASTER_ADDR", "MASTER_PORT")


@dataclass(frozen=True)
class BrokenPair:
    """Two packages that break each other: `name` below the version `fixed_in`, with `other` from `since` on."""

    name: str
    fixed_in: str
    other: str
    since: str
    what: str
    thread: str


# Where pip has installed what it was told not to, or an older environment was added to: what will happen, which a range
# of versions does not say. Each is of the thread named.
BROKEN_PAIRS = (
    BrokenPair(
        *("peft", "0.18", "transformers", "5"),
        "peft imports HybridCache of transformers, which is gone: no adapter can be made or loaded",
        "https://github.com/huggingface/transformers/issues/44351",
    ),
    BrokenPair(
        *("peft", "0.19", "transformers", "5"),
        "adapters on fused experts are laid out the other way round, and load into no later peft",
        "https://github.com/NVIDIA-NeMo/Automodel/issues/3592",
    ),
    BrokenPair(
        *("accelerate", "0.26", "transformers", "4.44"),
        "transformers' Trainer imports is_mlu_available of accelerate, which is not there yet",
        "https://github.com/huggingface/transformers/pull/32292",
    ),
)


@dataclass(frozen=True)
class MachineFinding:
    """A remark about the machine; a `problem` stops or hangs a run."""

    level: Literal["ok", "warn", "problem"]
    what: str
    remedy: str = ""


def read_tested_versions() -> dict[str, str]:
    """Read the exact versions that the tests run with, from constraints.txt."""
    pins = find_shipped("constraints.txt").read_text(encoding="utf-8").splitlines()
    return dict(line.split("==") for line in pins if "==" in line)


def check_versions() -> None:
    """Raise `MachineError` that names every package whose version is outside the declared range.

    Imports none of them: an import that fails halfway would give a worse message.
    """
    problems = [
        finding for finding in _find_unsupported_versions(get_installed_versions()) if finding.level == "problem"
    ]
    if problems:
        raise MachineError([Problem(finding.what, f"`{finding.remedy}`", code="HF712") for finding in problems])


def diagnose_machine(facts: MachineInfo, environment: Mapping[str, str]) -> list[MachineFinding]:
    """List what a user should know before a run on this machine, problems first."""
    findings = [
        *_find_unsupported_versions(facts.versions),
        *_find_broken_pairs(facts.versions),
        *_find_untested_versions(facts.versions),
        *_find_leftover_launch(environment),
        *_find_unseen_gpu(facts, environment),
        *_find_foreign_default(facts),
    ]
    if facts.disk_free_gib < 2:
        findings.append(MachineFinding("warn", f"{facts.disk_free_gib:.1f} GiB are free here", "checkpoints need room"))
    if all(device.kind == "cpu" for device in facts.devices):
        bf16 = "bf16" in facts.devices[0].precisions
        hint = "train.bf16=true is faster here" if bf16 else "leave train.bf16 off: this CPU computes it slowly"
        findings.append(MachineFinding("ok", "no accelerator: --on cpu", hint))
    order = ("problem", "warn", "ok")
    return sorted(findings, key=lambda finding: order.index(finding.level))


def _find_unsupported_versions(installed: Mapping[str, str]) -> list[MachineFinding]:
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
            findings.append(MachineFinding("problem" if needed else "warn", what, remedy))
    return list(dict.fromkeys(findings))


def _find_broken_pairs(installed: Mapping[str, str]) -> list[MachineFinding]:
    """Find the pairs of `BROKEN_PAIRS` among the installed versions."""
    findings = []
    for pair in BROKEN_PAIRS:
        one, other = installed.get(pair.name), installed.get(pair.other)
        if one is None or Version(one) >= Version(pair.fixed_in):
            continue
        if other is None or Version(other) < Version(pair.since):
            continue
        what = f"{pair.name} {one} does not go with {pair.other} {other}: {pair.what} ({pair.thread})"
        findings.append(MachineFinding("problem", what, f"pip install '{pair.name}>={pair.fixed_in}'"))
    return findings


def _find_untested_versions(installed: Mapping[str, str]) -> list[MachineFinding]:
    pins = read_tested_versions()
    differing = [
        f"{name} {version} (tested: {pins[name]})"
        for name, version in installed.items()
        if name in pins and Version(version).public != Version(pins[name]).public
    ]
    if not differing:
        return [MachineFinding("ok", "all versions are the tested ones")]
    remedy = "in the clone of hf-finetune: pip install -c constraints.txt ."
    return [MachineFinding("warn", f"not the tested versions: {', '.join(differing)}", remedy)]


def _find_leftover_launch(environment: Mapping[str, str]) -> list[MachineFinding]:
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
        return [MachineFinding("problem", what, remedy)]
    if several:
        what = f"{', '.join(here)} are set: a run from this shell would wait for other processes"
        return [MachineFinding("warn", what, f"{remedy}, unless a launcher set them for it")]
    return []


def _find_unseen_gpu(facts: MachineInfo, environment: Mapping[str, str]) -> list[MachineFinding]:
    if not facts.gpu_driver or any(device.kind == "cuda" for device in facts.devices):
        return []
    hidden = environment.get("CUDA_VISIBLE_DEVICES")
    if hidden is not None:
        return [
            MachineFinding("warn", f"CUDA_VISIBLE_DEVICES='{hidden}' hides every GPU", "unset CUDA_VISIBLE_DEVICES")
        ]
    what = f"NVIDIA's driver is here, but torch {facts.versions.get('torch')} sees no GPU"
    return [
        MachineFinding("warn", what, "install the torch that fits the driver: https://pytorch.org/get-started/locally")
    ]


def _find_foreign_default(facts: MachineInfo) -> list[MachineFinding]:
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
    return [MachineFinding("warn", what, remedy)]
