"""`hf-finetune check`: what the rows of a run are, what is wrong with them, and what of them would be trained."""

from __future__ import annotations

import json
import os
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, TextIO

import typer

from hf_finetune.cli.commands.preflight.tokens import RUN_FILES, check_folder, check_page, print_views
from hf_finetune.cli.terminal import Json, print_json, say
from hf_finetune.errors import EXIT_REFUSED, ConfigError, FinetuneError, MachineError, Problem, translate_machine_errors
from hf_finetune.shell import shell_path

if TYPE_CHECKING:
    from hf_finetune.preflight import DataReport, TokenView

_ROWS_OF_A_PAGE = 3


def check(
    run_file: Annotated[str, typer.Argument(metavar="RUN.yaml", help="A run file.")],
    settings: Annotated[
        list[str] | None, typer.Argument(metavar="[KEY=VALUE]...", help="Settings of the run, over those of its file.")
    ] = None,
    against: Annotated[
        str | None, typer.Option(metavar="FILE", help="Rows that the model will be used on: are the trained ones such?")
    ] = None,
    benchmark: Annotated[
        list[str] | None, typer.Option(metavar="FILE", help="Rows that may not be trained on; once for each file.")
    ] = None,
    show: Annotated[int, typer.Option(min=0, max=100, help="Training rows to show token by token.")] = 0,
    html: Annotated[Path | None, typer.Option(metavar="PAGE", help="Write a page, with rows token by token.")] = None,
    sarif: Annotated[
        Path | None, typer.Option(metavar="FILE", help="Write SARIF, for tools that annotate files.")
    ] = None,
    show_data: Annotated[
        bool, typer.Option("--show-data", help="Say words by which rows differ, and labels that are personal data.")
    ] = False,
    strict: Annotated[bool, typer.Option("--strict", help="End with exit code 2 on warnings, too.")] = False,
    as_json: Json = False,
) -> None:
    """Say what the rows of a run are, what is wrong with them, and what of them would be trained.

    Ends with exit code 2 where a run would be refused, or an error is found.
    """
    _check_outputs(html, sarif)
    shown = show or (_ROWS_OF_A_PAGE if html is not None else 0)
    asked = {"against": against, "benchmarks": benchmark or [], "show": shown, "show_data": show_data}
    report, views = _look(run_file, settings or [], asked, sarif, as_json=as_json)
    if sarif is not None:
        _write_sarif(sarif, report)
    if html is not None:
        _write_page(html, report, views, said_to=sys.stderr if as_json else sys.stdout)
    if as_json:
        print_json(report.as_dict() | ({"rows": [view.as_dict() for view in views]} if show else {}))
    else:
        _print_report(report, views if show else [])
    counts = report.count_levels()
    if counts["error"] or (strict and counts["warning"]):
        raise typer.Exit(EXIT_REFUSED)


def _check_outputs(html: Path | None, sarif: Path | None) -> None:
    """Raise `ConfigError` where what is asked for cannot be written, or would take the place of something else."""
    from hf_finetune.preflight import is_own_sarif

    if html is not None:
        check_page(html)
    if sarif is None:
        return
    check_folder(sarif, "--sarif")
    # A data file or the run file itself may be named by mistake: nothing of somebody else is written over.
    if os.path.lexists(sarif) and not is_own_sarif(sarif):
        what, remedy = "is there already, and no report of ours", "name another file with --sarif"
        raise ConfigError(Problem(what, remedy, path=str(sarif), key="--sarif", code="HF705"))
    if html is not None and html.resolve() == sarif.resolve():
        raise ConfigError(Problem("is also --html", "name another file", path=str(sarif), key="--sarif", code="HF606"))


def _look(
    run_file: str,
    settings: list[str],
    asked: dict[str, Any],
    sarif: Path | None,
    *,
    as_json: bool,
) -> tuple[DataReport, list[TokenView]]:
    """Look at the rows of a run; what nothing could be looked at for is written in the forms that were asked for."""
    from hf_finetune.config import load_run, read_recipe_name
    from hf_finetune.preflight import DataReport, check_run

    try:
        if not run_file.endswith(RUN_FILES) and os.path.isfile(run_file):
            remedy = f"write one for it: hf-finetune new {shell_path(run_file)}"
            raise ConfigError(Problem("is no run file", remedy, run_file, code="HF615"))
        run = load_run([run_file, *settings], read_recipe_name(run_file, settings))
        return check_run(run, run_file, **asked | {"show_data": asked["show_data"] or run.eval.show_data})
    except MachineError:
        raise
    except FinetuneError as refused:
        # Who reads JSON or SARIF finds there what the terminal has: that is how a check of a repository fails.
        more = refused.total - len(refused.problems)
        report = DataReport(run_file, "", problems=list(refused.problems), more_problems=more)
        if sarif is not None:
            _write_sarif(sarif, report)
        if as_json:
            print_json(report.as_dict())
        raise


def _print_report(report: DataReport, views: list[TokenView]) -> None:
    from hf_finetune.preflight import format_report

    for line in format_report(report):
        say(line)
    if views:
        say()
        print_views(views, as_list=False)


def _write_page(page: Path, report: DataReport, views: list[TokenView], said_to: TextIO) -> None:
    from hf_finetune.pages import save_page
    from hf_finetune.preflight import render_report

    save_page(page, render_report(report, views))
    say(f"{page} is written", file=said_to)


def _write_sarif(path: Path, report: DataReport) -> None:
    from hf_finetune.files import write_atomically
    from hf_finetune.preflight import build_sarif

    with translate_machine_errors():
        write_atomically(path, json.dumps(build_sarif(report), indent=1, ensure_ascii=False) + "\n")
