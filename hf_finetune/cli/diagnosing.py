"""`hf-finetune diagnose`: what a run's own log says about it."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated

import typer

from hf_finetune.cli.terminal import Json, print_json
from hf_finetune.errors import ConfigError, FinetuneError, Problem, escape_control_characters

if TYPE_CHECKING:
    from hf_finetune.reporting.diagnosis import Diagnosis, Finding


def diagnose(
    folders: Annotated[list[str], typer.Argument(help="Run folders or checkpoints, ours or any Trainer's.")],
    as_json: Json = False,
) -> None:
    """Say in words what a run's log tells: what went wrong, from which step on, and the next setting to try."""
    found = _diagnoses(folders)
    if as_json:
        print_json([{"folder": folder, **each.as_dict()} for folder, each in found.items()])
        return
    for folder, each in found.items():
        _say(f"{folder}: {each.verdict}")
        for finding in each.findings:
            _say_finding(finding)


def _diagnoses(folders: list[str]) -> dict[str, Diagnosis]:
    """Of every folder; all that cannot be read are named together."""
    from hf_finetune.reporting.diagnosis import diagnose as diagnose_run
    from hf_finetune.reporting.runs import read_run

    found: dict[str, Diagnosis] = {}
    problems: list[Problem] = []
    for folder in folders:
        try:
            found[folder] = diagnose_run(read_run(folder))
        except FinetuneError as refused:
            problems += refused.problems
    if problems:
        raise ConfigError(problems)
    return found


def _say_finding(finding: Finding) -> None:
    _say(f"  {finding.level}: {finding.title} ({finding.kind})")
    for name, text in (("seen", finding.evidence), ("likely", finding.cause), ("try", finding.remedy)):
        if text:
            _say(f"    {name:<7} {text}")


def _say(line: str) -> None:
    print(escape_control_characters(line))
