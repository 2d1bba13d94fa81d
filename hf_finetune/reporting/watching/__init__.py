"""A run that is looked at while it goes on, or after: nothing is written into its folder.

view.py     what there is to see of it, read again and again
screen.py   in a terminal or a pipe
plot.py     the curve as text
page.py     in a page that reloads itself
"""

from __future__ import annotations

import time
from collections.abc import Callable

from rich.console import Console
from rich.live import Live

from hf_finetune.reporting.watching.page import SECONDS_BETWEEN_PAGES, keep_page, wait_for_run
from hf_finetune.reporting.watching.screen import Frame, describe_entry, describe_state, list_facts
from hf_finetune.reporting.watching.view import RunView, RunWatcher, is_waited_for

__all__ = [
    "SECONDS_BETWEEN_PAGES",
    "RunView",
    "RunWatcher",
    "follow_in_terminal",
    "follow_lines",
    "is_waited_for",
    "keep_page",
    "list_facts",
    "show",
    "wait_for_run",
]

SECONDS_BETWEEN_FRAMES = 1.0


def show(view: RunView, console: Console) -> None:
    """Print one frame."""
    console.print(Frame(view))


def follow_in_terminal(watcher: RunWatcher, console: Console) -> None:
    """Draw the run again each second until it ends; the last frame stays on the screen.

    Raises as `RunWatcher.look` does, and what Ctrl-C raises, once the terminal is as it was.
    """
    view = watcher.look()
    with Live(Frame(view), console=console, auto_refresh=False, vertical_overflow="crop") as live:
        while view.going:
            time.sleep(SECONDS_BETWEEN_FRAMES)
            view = watcher.look()
            live.update(Frame(view), refresh=True)


def follow_lines(watcher: RunWatcher, write: Callable[[str], None]) -> None:
    """Write what there is, then each new line of the log, and at the end how the run has ended. Raises as `look`."""
    view = watcher.look()
    for line in list_facts(view):
        write(line)
    log, shown, state = watcher.log, len(watcher.log.history), view.state
    if not view.going:
        return
    while view.going:
        time.sleep(SECONDS_BETWEEN_FRAMES)
        view = watcher.look()
        if watcher.log is not log:  # the run goes on from a checkpoint
            log = watcher.log
            shown = min(shown, len(log.history))
        for entry in log.history[shown:]:
            write(describe_entry(entry, view.max_steps))
        shown = len(log.history)
        if view.state != state:
            write(f"{view.name}: {describe_state(view)}")
        state = view.state
    write(view.verdict)
