"""`hf-finetune push`: push a model folder to the Hub."""

from __future__ import annotations

import sys
from typing import TYPE_CHECKING, Annotated

import typer

from hf_finetune.cli.terminal import Json, print_json, say

if TYPE_CHECKING:
    from hf_finetune.release import PushOptions

Public = Annotated[bool, typer.Option("--public", help="For everybody to read; private otherwise.")]
Revision = Annotated[str | None, typer.Option(help="A branch, created if it does not exist; else main.")]
CreatePr = Annotated[bool, typer.Option("--create-pr", help="Open a pull request instead of committing.")]
License = Annotated[str | None, typer.Option(help="Such as apache-2.0 or unknown; else what README.md says.")]
Message = Annotated[str | None, typer.Option(help="Of the commit.")]
DryRun = Annotated[bool, typer.Option("--dry-run", help="Check everything and list the files; send nothing.")]


def push(
    directory: Annotated[str, typer.Argument(help="The folder of a run, a merged model or an adapter.")],
    repo: Annotated[str, typer.Argument(help="owner/name on the Hub; created, private, if it does not exist.")],
    public: Public = False,
    revision: Revision = None,
    create_pr: CreatePr = False,
    license: License = None,
    message: Message = None,
    dry_run: DryRun = False,
    as_json: Json = False,
) -> None:
    """Push a model folder to the Hub: weights, tokenizer, card and report, in one commit. Repeat it to resume."""
    from dataclasses import replace
    from pathlib import Path

    from hf_finetune.config import check_repo_id
    from hf_finetune.folders import check_not_in_use
    from hf_finetune.interruption import unwind_when_stopped
    from hf_finetune.release import PushOptions, format_push_result, push_folder, read_license

    check_repo_id(repo)
    check_not_in_use(directory)  # its files may be those of two models
    options = PushOptions(public, revision, create_pr, license=license)
    options = replace(options, message=message) if message else options
    # Asked for in a terminal only: in a script nobody would answer, and push_folder names the option instead.
    asks = license is None and sys.stdin.isatty() and Path(directory).is_dir()
    if asks and read_license(Path(directory)) is None:
        options = replace(options, license=typer.prompt("README.md says no license. Which one (unknown is one)"))
    if dry_run:
        _show_plan(directory, repo, options, as_json=as_json)
        return
    unwind_when_stopped(lambda: "what was uploaded stays there; the same command goes on, and commits it")
    facts = push_folder(directory, repo, options=options)
    if as_json:
        print_json(facts.as_dict())
        return
    say(format_push_result(facts))
    for name in facts.removed:
        say(f"removed there: {name}, a file of the model that was there before")


def _show_plan(directory: str, repo: str, options: PushOptions, *, as_json: bool) -> None:
    from hf_finetune.release import plan_push

    files = plan_push(directory, repo, options=options)
    listed = [{"name": file.name, "bytes": file.size, "sha256": file.sha256} for file in files]
    if as_json:
        print_json({"repo_id": repo, "private": not options.public, "files": listed})
        return
    for file in files:
        say(f"{file.size:>14,}  {file.name}")
    total = sum(file.size for file in files)
    visibility = "public" if options.public else "private"
    say(f"{total:>14,}  bytes would go to {repo} ({visibility}); nothing was sent")
