"""A signal for a launch that waits for other machines: torch does so in C++, where Python takes none."""

from __future__ import annotations

import os
import signal
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager

SECONDS_TO_BE_TAKEN = 1.0
"""Behind the signal itself: what Python has not handled by then is handled beside the thread that is stuck."""


@contextmanager
def take_signals_beside() -> Iterator[None]:
    """Within the block the handlers of this process are called though its main thread hangs, as in a rendezvous.

    Not for a process whose handlers only note a signal. Handlers that others install are left to them: torch's come
    with the processes that it starts, and are called while it waits for these in Python.
    """
    # torch (2.13) waits in `TCPStore` for up to fifteen minutes, and takes up again what a signal has interrupted.
    ours = {number: signal.getsignal(number) for number in (signal.SIGINT, signal.SIGTERM)}
    read, write = os.pipe()
    os.set_blocking(write, False)
    before = signal.set_wakeup_fd(write, warn_on_full_buffer=False)
    threading.Thread(target=_take, args=(read, ours), name="signals of a launch", daemon=True).start()
    try:
        yield
    finally:
        signal.set_wakeup_fd(before)
        os.close(write)  # which ends the thread


def _take(read: int, ours: dict[signal.Signals, object]) -> None:
    with os.fdopen(read, "rb", buffering=0) as came:
        while number := came.read(1):
            time.sleep(SECONDS_TO_BE_TAKEN)
            handler = signal.getsignal(number[0])
            if callable(handler) and handler == ours.get(signal.Signals(number[0])):
                handler(number[0], None)
