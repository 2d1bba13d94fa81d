"""How far long work has come: lines of the log, or a bar in a terminal."""

from __future__ import annotations

import logging
import os
import sys
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any, Protocol

from hf_finetune.ranks import is_first_rank

if TYPE_CHECKING:
    from rich.console import Console, RenderableType  # a quarter of a second, and most work says nothing

logger = logging.getLogger(__name__)

INTERVAL_S = 5.0
SECONDS_WORTH_SAYING = 10.0
"""Of the time that is left."""
SECONDS_UNSHOWN = 1.0
"""Of work in a terminal."""
SECONDS_BETWEEN_FRAMES = 0.1


class Show(Protocol):
    """Is told how many are done, and which share of the work that is where it is not that of their number."""

    def __call__(self, done: int, share: float | None = None) -> object: ...


class ProgressLines:
    """Logs how far a loop has come, at most every five seconds; a loop that is faster than that says nothing."""

    def __init__(self, what: str, total: int | None = None) -> None:
        """`what` is counted, as `rows scored`; `total` of it, where that is known."""
        self.what, self.total = what, total
        self.started = self.logged = time.monotonic()

    def log_if_due(self, done: int, share: float | None = None) -> float:
        """Log that `done` are done if five seconds have passed; returns the seconds since the start."""
        now = time.monotonic()
        seconds = now - self.started
        if now - self.logged >= INTERVAL_S and done != self.total:
            self.logged = now
            far = f"{done:,}" if self.total is None else f"{done:,} of {self.total:,}"
            rest = self._describe_rest(done / self.total if share is None and self.total else share, seconds)
            logger.info("%s %s, %s a second%s", far, self.what, f"{done / seconds:.3g}", rest)
        return seconds

    def _describe_rest(self, share: float | None, seconds: float) -> str:
        """Say how long it will take still, where that is known and worth a word."""
        left = (1 - share) * seconds / share if share else 0.0
        if left < SECONDS_WORTH_SAYING:
            return ""
        return f", about {left:.0f} s left" if left < 120 else f", about {left / 60:.0f} min left"


@contextmanager
def say_while(what: str) -> Iterator[None]:
    """Log every five seconds, by a thread, that one call of a library inside the `with` is still at `what`."""
    # It costs 0.1 ms: for calls that may take seconds, and that let other threads run meanwhile.
    started, ended = time.monotonic(), threading.Event()

    def say() -> None:
        while not ended.wait(INTERVAL_S):
            logger.info("%s: %.0f s so far", what, time.monotonic() - started)

    threading.Thread(target=say, name="progress", daemon=True).start()
    try:
        yield
    finally:
        ended.set()


@contextmanager
def show_progress(what: str, total: int | None = None) -> Iterator[Show]:
    """Give a function that is told how many are done; `what` they are is a plural, as `rows tokenized`."""
    if not is_first_rank():  # of several processes that work side by side one is enough
        yield lambda done, share=None: None
        return
    if not is_drawn_on():
        yield ProgressLines(what, total).log_if_due
        return
    bar = _Bar(what, total)
    try:
        yield bar.show
    finally:
        bar.close()


class _Bar:
    """A bar at the foot of the terminal, once the work has taken a second."""

    def __init__(self, what: str, total: int | None) -> None:
        # "rows of a.jsonl read" and "rows tokenized": what is counted comes first, and what is done with it last.
        self.unit, self.doing, self.total = what.partition(" ")[0], what.rpartition(" ")[2], total
        self.began = time.monotonic()
        self.due = self.began + SECONDS_UNSHOWN
        self.foot: Foot | None = None

    def show(self, done: int, share: float | None = None) -> None:
        """Show that so many are done."""
        now = time.monotonic()
        if now < self.due:
            return
        self.due = now + SECONDS_BETWEEN_FRAMES
        if self.foot is None:
            self._open(by_share=share is not None)
        assert self.foot is not None
        speed = f"{done / (now - self.began):,.0f} {self.unit}/s"
        self.bars.update(self.task, completed=done if share is None else share, count=f"{done:,}", speed=speed)
        self.foot.draw(self.bars.get_renderable())

    def _open(self, *, by_share: bool) -> None:
        from rich.progress import (
            BarColumn,
            MofNCompleteColumn,
            Progress,
            ProgressColumn,
            TextColumn,
            TimeRemainingColumn,
        )

        self.foot = Foot()
        self.foot.open()
        count, speed = TextColumn("{task.fields[count]}"), TextColumn("{task.fields[speed]}")
        columns: list[ProgressColumn] = [TextColumn("{task.description}"), count, speed]
        if by_share or self.total is not None:
            counted = count if by_share else MofNCompleteColumn()
            columns[1:] = [counted, BarColumn(), speed, TimeRemainingColumn(), TextColumn("left")]
        self.bars = Progress(*columns, console=self.foot.console)
        self.task = self.bars.add_task(self.doing, total=1.0 if by_share else self.total, count="", speed="")

    def close(self) -> None:
        """Take it off the screen."""
        if self.foot is not None:
            self.foot.close()


def open_terminal() -> Console:
    """The terminal of a foot; what others print above it is text, in which `[/INST]` is no closing tag."""
    from rich.console import Console

    return Console(stderr=True, markup=False, emoji=False, highlight=False)


class Foot:
    """What stands at the foot of a terminal, above which the lines of the log scroll.

    It is drawn by whoever calls, and not by a thread, which could be forked in the middle of a write.
    """

    def __init__(self, open_console: Callable[[], Console] = open_terminal) -> None:
        from rich.live import Live

        self.console = open_console()
        self._live = Live(
            console=self.console,
            auto_refresh=False,
            redirect_stdout=sys.stdout.isatty(),
            transient=True,
        )
        self._moved: list[tuple[logging.StreamHandler[Any], Any]] = []

    def open(self) -> None:
        """Begin; what fails here is taken back by `close`."""
        self._live.start()
        self.console.show_cursor(True)  # where the process is killed it would stay hidden
        # Handlers write to the terminal as they found it, through the middle of the frame.
        handlers = [each for each in logging.getLogger().handlers if isinstance(each, logging.StreamHandler)]
        terminals = (sys.__stderr__, sys.__stdout__)
        self._moved = [(each, each.stream) for each in handlers if each.stream in terminals]
        for handler, stream in self._moved:
            handler.setStream(sys.stderr if stream is sys.__stderr__ else sys.stdout)

    def draw(self, frame: RenderableType) -> None:
        """Draw it anew."""
        self._live.update(frame, refresh=True)

    def lift(self, line: str) -> None:
        """Say `line` above, which a signal has written below what is drawn: the next frame would wipe it."""
        drawn = self._live._live_render  # rich 15 has no public name for it
        if height := drawn.last_render_height:
            below = 1 + (len(line) - 1) // self.console.width + 1
            self.console.file.write("\r" + "\x1b[2K\x1b[1A" * (height - 1 + below) + "\x1b[2K")
            drawn._shape = None
        self.console.print(line, markup=False, highlight=False)

    def close(self) -> None:
        """Take it off the screen, and restore the terminal."""
        try:
            self._live.stop()
        finally:
            for handler, stream in self._moved:
                handler.stream = stream  # setStream would write to the old one first, which may be what failed
            self._moved = []


def is_drawn_on() -> bool:
    """Whether standard error is a terminal that can be drawn on."""
    # Without TERM a terminal of Unix is one that nothing is known of.
    knows_codes = os.environ.get("TERM", "" if sys.platform != "win32" else "xterm") not in ("", "dumb", "unknown")
    return sys.stderr.isatty() and knows_codes
