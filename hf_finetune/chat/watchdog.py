"""A watchdog: stops untrusted Python code that runs too long or takes too much memory, in any thread.

One thread polls all running tasks every few hundredths of a second, and raises `LimitExceeded` in the thread of a task
that exceeds its limits, again and again until the task has ended: what is raised inside a callback of the garbage
collector or a `__del__` is printed there and lost. Signals work in the main thread only. A task that ends before the
first poll costs about a microsecond.
"""

from __future__ import annotations

import ctypes
import os
import threading
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import TypeVar

import psutil

Result = TypeVar("Result")

POLL_SECONDS = 0.02
IDLE_SECONDS = 1.0
SECONDS_TO_RAISE_AGAIN = 0.25
"""A task that was stopped has so long to end, under load too, before it is stopped once more."""
MAX_MEMORY_GROWTH = 256 * 2**20
"""Bytes by which the process may grow while a task runs."""


class LimitExceeded(BaseException):
    """Raised in the watched thread; a BaseException, so that no `except Exception` there catches it."""


class TimeLimitExceeded(LimitExceeded):
    """The task has run for too long."""


class MemoryLimitExceeded(LimitExceeded):
    """The process has grown by more than `MAX_MEMORY_GROWTH`."""


@dataclass(slots=True, eq=False)
class _Task:
    thread: int
    seconds: float
    until: float
    memory: int = 0  # bytes of the process at the first poll
    processor: float = 0.0  # CPU seconds of the process at the first poll
    stopped: float | None = None  # when the exception was last raised
    reason: type[LimitExceeded] = LimitExceeded
    ended: bool = False


@dataclass
class _Watchdog:
    works: list[_Task] = field(default_factory=list)
    lock: threading.Lock = field(default_factory=threading.Lock)
    awake: threading.Event = field(default_factory=threading.Event)
    thread: threading.Thread | None = None


_watchdog = _Watchdog()


def run_with_limits(work: Callable[[], Result], seconds: float) -> Result:
    """Return what `work` returns, or raise `TimeLimitExceeded` or `MemoryLimitExceeded` between two of its bytecodes.

    A single call of C code is not interrupted: see the limits of operations in `sandbox`.
    """
    watch = _watchdog
    entry = _Task(threading.get_ident(), seconds, time.monotonic() + seconds)
    watch.works.append(entry)
    if not watch.awake.is_set():
        _start_watching(watch)
    try:
        return work()
    finally:
        # From here on nothing is raised: an exception that comes between this line and the next was pending already,
        # and leaves the entry for the polling thread to remove.
        entry.ended = True
        with watch.lock:
            if entry in watch.works:
                watch.works.remove(entry)
            if entry.stopped is not None:  # the work has ended by itself: clear the pending exception
                ctypes.pythonapi.PyThreadState_SetAsyncExc(ctypes.c_ulong(entry.thread), None)


def _start_watching(watch: _Watchdog) -> None:
    """Start the polling thread, or wake it."""
    with watch.lock:
        if watch.thread is None:
            watch.thread = threading.Thread(target=_poll, args=(watch,), name="overtime", daemon=True)
            watch.thread.start()
    watch.awake.set()


def _poll(watch: _Watchdog) -> None:
    """Check all tasks again and again; without one for `IDLE_SECONDS`, wait to be woken."""
    process, last = psutil.Process(), time.monotonic()
    while True:
        watch.awake.wait()
        time.sleep(POLL_SECONDS)
        now = time.monotonic()
        if watch.works:
            last = now
        elif now - last > IDLE_SECONDS:
            watch.awake.clear()
        for work in tuple(watch.works):
            _stop_if_exceeded(watch, work, now, process.memory_info().rss)


def _stop_if_exceeded(watch: _Watchdog, work: _Task, now: float, memory: int) -> None:
    """Raise the exception in the thread of `work` where a limit is exceeded, or was and the work goes on."""
    if work.ended or work.stopped is not None:
        if work.ended or now - (work.stopped or 0.0) > SECONDS_TO_RAISE_AGAIN:
            _raise_in_thread(watch, work, now)
        return
    processor = time.process_time()
    if not work.memory:
        work.memory, work.processor = memory, processor
    # On a machine under load or suspended, wall time passes without the task: half of its time must be CPU time.
    late = now > work.until and processor - work.processor > work.seconds / 2
    reason = TimeLimitExceeded if late else MemoryLimitExceeded if memory - work.memory > MAX_MEMORY_GROWTH else None
    if reason is not None:
        work.reason = reason
        _raise_in_thread(watch, work, now)


def _raise_in_thread(watch: _Watchdog, work: _Task, now: float) -> None:
    """Raise the reason of a task in its thread, or remove the task where it has ended."""
    with watch.lock:
        if not work.ended:
            work.stopped = now
            # Takes effect at the thread's next bytecode; Python has no other way to stop a thread from outside.
            ctypes.pythonapi.PyThreadState_SetAsyncExc(ctypes.c_ulong(work.thread), ctypes.py_object(work.reason))
        elif work in watch.works:
            watch.works.remove(work)


def _reset_after_fork() -> None:
    """Replace the watchdog: a forked process has no polling thread, and may hold a lock that nobody releases."""
    global _watchdog
    _watchdog = _Watchdog()


if hasattr(os, "register_at_fork"):  # not on Windows, which forks no process
    os.register_at_fork(after_in_child=_reset_after_fork)
