"""Lines of a log that say how far a loop has come, in a terminal and elsewhere."""

from __future__ import annotations

import logging
import time

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
