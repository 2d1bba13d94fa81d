"""`hf-finetune check`: what the rows of a run are, what is wrong with them, and what of them would be trained."""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from hf_finetune.cli.commands.preflight.tokens import check_page, print_views
from hf_finetune.cli.terminal import Json, print_json, say
from hf_finetune.errors import EXIT_REFUSED, FinetuneError, MachineError

if TYPE_CHECKING:
    from hf_finetune.preflight import DataReport

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
    strict: Annotated[bool, typer.Option("--strict", help="End with exit code 2 on warnings, too.")] = False,
    as_json: Json = False,
) -> None:
    """Say what the rows of a run are, what is wrong with them, and what of them would be trained.

    Ends with exit code 2 where a run would be refused, or an error is found.
    """
    from hf_finetune.preflight import build_sarif, check_run, format_report, render_report

    if html is not None:
        check_page(html)
    shown = show or (_ROWS_OF_A_PAGE if html is not None else 0)
    try:
        run = _load(run_file, settings or [])
        report, views = check_run(run, run_file, against=against, benchmarks=benchmark or (), show=shown)
    except MachineError:
        raise
    except FinetuneError as refused:
        if as_json or sarif is not None:
            _write_refusal(refused, run_file, sarif, as_json=as_json)
        raise
    if sarif is not None:
        _write(sarif, build_sarif(report))
    if html is not None:
        from hf_finetune.pages import save_page

        save_page(html, render_report(report, views))
        say(f"{html} is written", file=sys.stderr if as_json else sys.stdout)
    if as_json:
        print_json(report.as_dict() | ({"rows": [view.as_dict() for view in views]} if show else {}))
    else:
        for line in format_report(report):
            say(line)
        if show and views:
            say()
            print_views(views, as_list=False)
    counts = report.count_levels()
    if counts["error"] or (strict and counts["warning"]):
        raise typer.Exit(EXIT_REFUSED)


def _load(run_file: str, settings: list[str]) -> Any:
    from hf_finetune.config import load_run, read_recipe_name

    return load_run([run_file, *settings], read_recipe_name(run_file, settings))


def _write_refusal(refused: FinetuneError, run_file: str, sarif: Path | None, *, as_json: bool) -> None:
    """Write what nothing could be looked at for, in the forms that were asked for."""
    from hf_finetune.preflight import DataReport, build_sarif

    more = refused.total - len(refused.problems)
    report: DataReport = DataReport(run_file, "", problems=list(refused.problems), more_problems=more)
    if sarif is not None:
        _write(sarif, build_sarif(report))
    if as_json:
        print_json(report.as_dict())


def _write(path: Path, content: dict[str, Any]) -> None:
    from hf_finetune.errors import translate_machine_errors
    from hf_finetune.files import write_atomically

    with translate_machine_errors():
        write_atomically(path, json.dumps(content, indent=1, ensure_ascii=False) + "\n")
