"""`hf-finetune init`: recipes, run files, templates and pages for a folder of one's own."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from hf_finetune.cli.terminal import say

MOST_NAMED = 5


def init(
    directory: Annotated[Path, typer.Argument(help="The folder to fill; created if it is missing.")],
    overwrite: Annotated[
        bool, typer.Option("--overwrite", help="Fill a folder in use; files of the same names stay.")
    ] = False,
) -> None:
    """Copy recipes, configurations, data templates and docs into a folder of your own."""
    from hf_finetune.environment import init_project, list_other_files
    from hf_finetune.shell import shell_path

    written = init_project(directory, overwrite=overwrite)
    if kept := list_other_files(directory, written):
        more = f" and {len(kept) - MOST_NAMED:,} more" if len(kept) > MOST_NAMED else ""
        say(f"{directory}: kept what was there: {', '.join(map(shell_path, kept[:MOST_NAMED]))}{more}")
    go_there = "" if Path(directory).resolve() == Path.cwd() else f" cd {shell_path(directory)} and"
    say(f"{directory}: {len(written)} files. Next:{go_there}")
    say("  hf-finetune train recipes/configs/continued_pretraining.yaml --on cpu")
