"""Lines of a log that say how far a loop has come, in a terminal and elsewhere."""

from __future__ import annotations

import logging
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager

logger = logging.getLogger(__name__)

INTERVAL_S = 5.0


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
            logger.info("%s %s, %s a second", far, self.what, f"{done / seconds:.3g}")
        return seconds


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
