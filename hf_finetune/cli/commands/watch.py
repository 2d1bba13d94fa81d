"""`hf-finetune watch`: a run in the terminal, while it goes on or after."""

from __future__ import annotations

import os
import sys
from typing import Annotated

import typer

from hf_finetune.cli.terminal import Json, print_json, say


def watch(
    folder: Annotated[str, typer.Argument(help="A run folder; a run of another Trainer is shown once.")],
    once: Annotated[bool, typer.Option("--once", help="Show it as it is now, and end.")] = False,
    as_json: Json = False,
) -> None:
    """Show how far a run is: loss, speed, time left, evaluation, sample, verdict; until it ends, or Ctrl-C."""
    from rich.console import Console

    from hf_finetune.interruption import unwind_when_stopped
    from hf_finetune.reporting import RunWatcher, follow_in_terminal, follow_lines, list_facts, show

    watcher = RunWatcher(folder)
    if as_json:
        print_json(watcher.look().as_dict())
        return
    unwind_when_stopped(lambda: "the view is closed, the run is left as it is")
    if not sys.stdout.isatty() or os.environ.get("TERM") in ("dumb", "unknown"):
        if once:
            for line in list_facts(watcher.look()):
                say(line)
        else:
            follow_lines(watcher, lambda line: say(line, flush=True))
        return
    console = Console(markup=False, emoji=False, highlight=False)
    if once:
        show(watcher.look(), console)
    else:
        follow_in_terminal(watcher, console)
