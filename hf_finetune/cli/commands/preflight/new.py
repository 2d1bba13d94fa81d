"""`hf-finetune new`: a run file for files of rows, which runs as it stands."""

from __future__ import annotations

import sys
from collections.abc import Sequence
from typing import TYPE_CHECKING, Annotated, Literal

import typer

from hf_finetune.cli.terminal import Json, print_json, say

if TYPE_CHECKING:
    from hf_finetune.preflight import Candidate, NewRun

Task = Literal["sft", "lora", "classification", "pretrain"]


def new(
    files: Annotated[list[str], typer.Argument(metavar="FILE...", help="Rows or texts; train, valid, test by name.")],
    model: Annotated[
        str | None, typer.Option(help="A folder, a Hub id, or scratch; by default one that is on the disk.")
    ] = None,
    task: Annotated[Task | None, typer.Option(help="By default that which the rows are for.")] = None,
    output: Annotated[str, typer.Option(help="The run file to write.")] = "run.yaml",
    yes: Annotated[bool, typer.Option("--yes", "-y", help="Ask nothing: take what is proposed.")] = False,
    as_json: Json = False,
) -> None:
    """Look at rows, machine and model, and write a commented run file that runs as it stands."""
    from hf_finetune.preflight import make_run_file

    # A question into a pipe would wait for ever, or take its end for an answer.
    asks = not (yes or as_json) and sys.stdin.isatty() and sys.stdout.isatty()
    made = make_run_file(files, model=model, task=task, output=output, ask=_ask_for_model if asks else None)
    if as_json:
        print_json(made.as_dict())
        return
    _say_made(made)


def _ask_for_model(models: Sequence[Candidate], default: str) -> str:
    """Ask which model to start from; an empty answer takes the proposed one, and another word is a folder or Hub id."""
    for number, each in enumerate(models, 1):
        size = f"{each.parameters / 1e6:,.0f} M parameters, {each.kind}{', chat' if each.speaks else ''}"
        say(f"{number:3} {each.path}  ({size})")
    answer = typer.prompt("Which model? A number, a folder or a Hub id", default=default)
    chosen = str(answer).strip()
    # Not `isdigit`, which holds for "²", of which int() makes nothing; a number of no model is the name of a folder.
    return models[int(chosen) - 1].path if chosen.isdecimal() and 0 < int(chosen) <= len(models) else chosen


def _say_made(made: NewRun) -> None:
    from hf_finetune.metric_info import choose_verb, say_count
    from hf_finetune.shell import shell_path

    rows = made.found.rows
    counts = ", ".join(f"{say_count(count, 'row')} for {role}" for role, count in rows.counts.items())
    say(f"{', '.join(map(shell_path, made.found.files['train']))}: {counts}, format {made.found.reading.format}")
    for note in rows.notes:
        say(f"  {shell_path(note.path)}{note.more}: {note.what}")
    if rows.rejected:
        said = choose_verb(rows.rejected, "is", "are")
        say(f"  {say_count(rows.rejected, 'row')} {said} rejected, the first {rows.first_rejected}")
    if rows.repeats:
        repeats = choose_verb(rows.repeats, "repeats", "repeat")
        say(f"  {say_count(rows.repeats, 'row')} {repeats} an earlier one")
    say(f"{shell_path(made.path)}: recipe {made.recipe}: {made.why}")
    say(f"  model {made.found.model_path or 'from scratch'}: {made.why_model}")
    for warning in made.warnings:
        say(f"  beware: {warning}")
    say("Next:")
    for command in made.commands:
        say(f"  {command}")
