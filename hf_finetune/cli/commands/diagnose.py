"""`hf-finetune diagnose`: findings from the log of a run."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated

import typer

from hf_finetune.cli.terminal import Json, print_json, say
from hf_finetune.errors import ConfigError, FinetuneError, Problem

if TYPE_CHECKING:
    from hf_finetune.reporting import Diagnosis, Finding


def diagnose(
    folders: Annotated[list[str], typer.Argument(help="Run folders or checkpoints, of this or any Trainer.")],
    as_json: Json = False,
) -> None:
    """Explain a run by its log: what went wrong, from which step on, and the next setting to try."""
    found, stopped = _diagnose_folders(folders)
    if as_json:
        print_json([{"folder": folder, **each.as_dict()} for folder, each in found.items()])
        return
    for folder, each in found.items():
        say(f"{folder}: {each.verdict}")
        for finding in each.findings:
            _print_finding(finding, each.verdict)
        if folder in stopped:
            say(f"  {stopped[folder]}")


def _diagnose_folders(folders: list[str]) -> tuple[dict[str, Diagnosis], dict[str, str]]:
    """Diagnose every folder; also what goes on with those that stopped.

    Raises ConfigError that names all folders that cannot be read.
    """
    from hf_finetune.reporting import describe_going_on, read_run
    from hf_finetune.reporting import diagnose as diagnose_run

    found: dict[str, Diagnosis] = {}
    stopped: dict[str, str] = {}
    problems: list[Problem] = []
    for folder in folders:
        try:
            run = read_run(folder)
            found[folder] = diagnose_run(run)
            if going_on := describe_going_on(run):
                stopped[folder] = going_on
        except FinetuneError as refused:
            problems += refused.problems
    if problems:
        raise ConfigError(problems)
    return found, stopped


def _print_finding(finding: Finding, verdict: str) -> None:
    """Print a finding but for what the verdict above it has said already."""
    title = "" if finding.title in verdict else f": {finding.title}"
    say(f"  {finding.level}{title} ({finding.kind})")
    for name, text in (("seen", finding.evidence), ("likely", finding.cause), ("try", finding.remedy)):
        if text and text not in verdict:
            say(f"    {name:<7} {text}")
