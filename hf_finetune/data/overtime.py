"""Stop Python code of others that runs too long, or takes too much memory, in whatever thread it runs.

One thread looks at all that is watched, every few hundredths of a second, and raises `Overtime` in the thread that is
over its time. Signals would do for the main thread alone. What ends before the first look costs a microsecond.
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

SECONDS_BETWEEN_LOOKS = 0.02
SECONDS_UNTIL_IDLE = 1.0
MOST_GROWTH = 256 * 2**20
"""Bytes by which the process may grow meanwhile."""


class Overtime(BaseException):
    """Raised in the thread that is watched; no `except Exception` of the watched code takes it."""


class TooLong(Overtime):
    """It has run for too long."""


class TooLarge(Overtime):
    """The process has grown by more than `MOST_GROWTH`."""


@dataclass(slots=True, eq=False)
class _Task:
    thread: int
    seconds: float
    until: float
    memory: int = 0  # of the process at the first look, in bytes
    processor: float = 0.0  # of the process at the first look, in seconds
    stopped: bool = False


@dataclass
class _Watchdog:
    works: list[_Task] = field(default_factory=list)
    lock: threading.Lock = field(default_factory=threading.Lock)
    awake: threading.Event = field(default_factory=threading.Event)
    thread: threading.Thread | None = None


_watchdog = _Watchdog()


def run_watched(work: Callable[[], Result], seconds: float) -> Result:
    """What `work` returns. Raises `TooLong` or `TooLarge` between two of its steps once it is beyond its bounds.

    A single step of C code is not interrupted.
    """
    watch = _watchdog
    entry = _Task(threading.get_ident(), seconds, time.monotonic() + seconds)
    watch.works.append(entry)
    if not watch.awake.is_set():
        _start_watching(watch)
    try:
        return work()
    finally:
        with watch.lock:
            if not entry.stopped:
                watch.works.remove(entry)
        if entry.stopped:  # where it has ended by itself in between, nothing is to be raised later
            ctypes.pythonapi.PyThreadState_SetAsyncExc(ctypes.c_ulong(entry.thread), None)


def _start_watching(watch: _Watchdog) -> None:
    with watch.lock:
        if watch.thread is None:
            watch.thread = threading.Thread(target=_poll, args=(watch,), name="overtime", daemon=True)
            watch.thread.start()
    watch.awake.set()


def _poll(watch: _Watchdog) -> None:
    process, last = psutil.Process(), time.monotonic()
    while True:
        watch.awake.wait()
        time.sleep(SECONDS_BETWEEN_LOOKS)
        now = time.monotonic()
        if watch.works:
            last = now
        elif now - last > SECONDS_UNTIL_IDLE:
            watch.awake.clear()
        for work in tuple(watch.works):
            _stop_if_exceeded(watch, work, now, process.memory_info().rss)


def _stop_if_exceeded(watch: _Watchdog, work: _Task, now: float, memory: int) -> None:
    processor = time.process_time()
    if not work.memory:
        work.memory, work.processor = memory, processor
    # A machine that stood still is no fault of the work: it has to have used its time.
    late = now > work.until and processor - work.processor > work.seconds / 2
    reason = TooLong if late else TooLarge if memory - work.memory > MOST_GROWTH else None
    if reason is None:
        return
    with watch.lock:
        if work in watch.works:
            watch.works.remove(work)
            work.stopped = True
            ctypes.pythonapi.PyThreadState_SetAsyncExc(ctypes.c_ulong(work.thread), ctypes.py_object(reason))


def _reset_after_fork() -> None:
    """A forked process has no watching thread, and maybe a lock that nobody will open."""
    global _watchdog
    _watchdog = _Watchdog()


os.register_at_fork(after_in_child=_reset_after_fork)
