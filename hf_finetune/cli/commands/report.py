"""`hf-finetune report`: the page of one run, or the comparison of several."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from hf_finetune.cli.terminal import Json, print_json, say
from hf_finetune.errors import ConfigError, Problem

if TYPE_CHECKING:
    from hf_finetune.reporting import Diagnosis, RunRecord


def report(
    folders: Annotated[list[str], typer.Argument(help="Run folders of this or any Trainer; several are compared.")],
    output: Annotated[
        Path | None, typer.Option(help="The page to write; else report.html in the folder, or comparison.html here.")
    ] = None,
    watch: Annotated[
        bool, typer.Option("--watch", help="Write it anew every 10 seconds until the run ends; it reloads itself.")
    ] = False,
    as_json: Json = False,
) -> None:
    """Write report.html: a run's verdict, curves, scores and record, or several runs compared."""
    from hf_finetune.pages import is_writable_page, save_page
    from hf_finetune.reporting import (
        PAGE,
        describe_best,
        diagnose,
        find_cautions,
        read_run,
        render_comparison,
        render_page,
    )

    _check_once(folders)
    if watch:
        _wait(folders)
    runs = [read_run(folder) for folder in folders]
    path = output or (runs[0].folder / PAGE if len(runs) == 1 else Path("comparison.html"))
    if not is_writable_page(path):
        remedy = "name another file with --output"
        raise ConfigError(
            Problem("is there already, and no page of ours", remedy, path=str(path), key="--output", code="HF705")
        )
    if watch:
        runs = [_watch(runs, path)]
    replaced = ", over the comparison that was there" if output is None and len(runs) > 1 and path.exists() else ""
    diagnoses = [diagnose(run) for run in runs]
    alone = len(runs) == 1
    html = render_page(runs[0], diagnoses[0]) if alone else render_comparison(runs, diagnoses, folder=path.parent)
    save_page(path, html)
    if as_json:
        print_json(_collect_results(path, runs, diagnoses))
        return
    for run, diagnosis in zip(runs, diagnoses, strict=True):
        say(f"{run.name}: {diagnosis.verdict}")
    if not alone:
        for line in (*describe_best(runs), *find_cautions(runs)):
            say(line)
    say(f"{path} is written{replaced}")


def _wait(folders: list[str]) -> None:
    """Wait for a run that has written nothing yet. Raises ConfigError for several runs."""
    from hf_finetune.interruption import unwind_when_stopped
    from hf_finetune.reporting import is_waited_for, wait_for_run

    if len(folders) > 1:
        raise ConfigError(Problem("shows one run", "name one folder, or leave it out", key="--watch", code="HF601"))
    folder = Path(folders[0])
    if is_waited_for(folder):
        unwind_when_stopped(lambda: "the page is as it was last written, if it was; the run goes on")
        say(f"{folders[0]}: nothing is written yet, the run is waited for", file=sys.stderr)
        wait_for_run(folder)


def _watch(runs: list[RunRecord], path: Path) -> RunRecord:
    """Keep the page of a run up to date until it ends; the run as it is then."""
    from hf_finetune.interruption import unwind_when_stopped
    from hf_finetune.reporting import SECONDS_BETWEEN_PAGES, keep_page

    unwind_when_stopped(lambda: f"{path} is as it was last written, the run goes on")
    if runs[0].status == "running":
        say(f"{path} is written every {SECONDS_BETWEEN_PAGES} seconds until the run ends", file=sys.stderr)
    return keep_page(str(runs[0].folder), path)


def _check_once(folders: list[str]) -> None:
    """Raise ConfigError naming each folder that is given twice, by whatever names."""
    seen: dict[Path, str] = {}
    problems = []
    for folder in folders:
        place = Path(folder).resolve()
        if place in seen:
            problems.append(
                Problem(f"is the same folder as {seen[place]}", "name each run once", path=folder, code="HF601")
            )
        seen.setdefault(place, folder)
    if problems:
        raise ConfigError(problems)


def _collect_results(path: Path, runs: list[RunRecord], diagnoses: list[Diagnosis]) -> dict[str, Any]:
    from hf_finetune.reporting import describe_best, find_cautions, find_differences, make_run_names

    found: list[dict[str, Any]] = [
        {"name": name, "status": run.status, "step": run.step, **diagnosis.as_dict()}
        for name, run, diagnosis in zip(make_run_names(runs), runs, diagnoses, strict=True)
    ]
    if len(runs) == 1:
        return {"page": str(path), "runs": found}
    verdict = {"verdict": describe_best(runs), "cautions": find_cautions(runs), "differences": find_differences(runs)}
    return {"page": str(path), "runs": found, **verdict}
