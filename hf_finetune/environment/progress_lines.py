"""How far long work has come: lines of the log, or a bar in a terminal."""

from __future__ import annotations

import logging
import os
import sys
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager

from hf_finetune.ranks import is_first_rank

logger = logging.getLogger(__name__)

INTERVAL_S = 5.0
SECONDS_WORTH_SAYING = 10.0
"""Of the time that is left."""
SECONDS_UNSHOWN = 1.0
"""Of work in a terminal."""


class ProgressLines:
    """Logs how far a loop has come, at most every five seconds; a loop that is faster than that says nothing."""

    def __init__(self, what: str, total: int | None = None) -> None:
        """`what` is counted, as `rows scored`; `total` of it, where that is known."""
        self.what, self.total = what, total
        self.started = self.logged = time.monotonic()

    def log_if_due(self, done: int) -> float:
        """Log that `done` are done if five seconds have passed; returns the seconds since the start."""
        now = time.monotonic()
        seconds = now - self.started
        if now - self.logged >= INTERVAL_S and done != self.total:
            self.logged = now
            far = f"{done:,}" if self.total is None else f"{done:,} of {self.total:,}"
            rest = self._describe_rest(done, seconds)
            logger.info("%s %s, %s a second%s", far, self.what, f"{done / seconds:.3g}", rest)
        return seconds

    def _describe_rest(self, done: int, seconds: float) -> str:
        """Say how long it will take still, where that is known and worth a word."""
        left = (self.total - done) * seconds / done if self.total and done else 0.0
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
def show_progress(what: str, total: int | None = None) -> Iterator[Callable[[int], object]]:
    """Give a function that is told how many are done; `what` they are is a plural, as `rows tokenized`."""
    if not is_first_rank():  # of several processes that work side by side one is enough
        yield lambda done: None
        return
    if not is_drawn_on():
        yield ProgressLines(what, total).log_if_due
        return
    # Not the display of a training, which is of rich and takes a quarter of a second to be imported.
    from tqdm import tqdm

    name, doing = what.partition(" ")[0], what.rpartition(" ")[2]
    bar = tqdm(
        desc=doing,
        total=total,
        unit=f" {name}",
        unit_scale=True,
        delay=SECONDS_UNSHOWN,
        leave=False,
        dynamic_ncols=True,
        file=sys.stderr,
    )

    def clear(record: logging.LogRecord) -> bool:
        bar.clear()  # the next figure draws it again, below the line
        return True

    handlers = [*logging.getLogger().handlers]
    for handler in handlers:
        handler.addFilter(clear)
    try:
        yield lambda done: bar.update(done - bar.n)
    finally:
        for handler in handlers:
            handler.removeFilter(clear)
        bar.close()


def is_drawn_on() -> bool:
    """Whether standard error is a terminal that can be drawn on."""
    # Without TERM a terminal of Unix is one that nothing is known of.
    knows_codes = os.environ.get("TERM", "" if sys.platform != "win32" else "xterm") not in ("", "dumb", "unknown")
    return sys.stderr.isatty() and knows_codes
