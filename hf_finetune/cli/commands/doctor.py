"""`hf-finetune doctor`: devices, versions and findings about this machine."""

from __future__ import annotations

from typing import TYPE_CHECKING

import typer

from hf_finetune.cli.terminal import Json, make_console, print_json, say

if TYPE_CHECKING:
    from hf_finetune.environment import MachineFinding, MachineInfo


def doctor(as_json: Json = False) -> None:
    """Check this machine: devices, precisions, and versions against the tested ones."""
    import os
    from dataclasses import asdict

    from hf_finetune.environment import collect_machine_info, diagnose_machine

    facts = collect_machine_info()
    findings = diagnose_machine(facts, os.environ)
    if as_json:
        print_json({"facts": asdict(facts), "findings": [asdict(finding) for finding in findings]})
    else:
        print_machine(facts, findings)
    raise typer.Exit(2 if any(finding.level == "problem" for finding in findings) else 0)


def print_machine(facts: MachineInfo, findings: list[MachineFinding]) -> None:
    """Print devices, versions and findings as tables."""
    from rich.table import Table

    say(f"Python {facts.python} on {facts.system}, {facts.cores} cores, {facts.disk_free_gib:.0f} GiB free here")
    devices = Table("device", "name", "memory", "capability", "precisions", box=None)
    for device in facts.devices:
        memory, precisions = f"{device.memory_gib:.0f} GiB", ", ".join(device.precisions)
        devices.add_row(device.kind, device.name, memory, device.capability, precisions)
    make_console().print(devices)
    say("  ".join(f"{name} {version}" for name, version in facts.versions.items()))
    for finding in findings:
        say(f"{finding.level:>7}: {finding.what}" + (f"; {finding.remedy}" if finding.remedy else ""))
