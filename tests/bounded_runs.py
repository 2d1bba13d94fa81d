"""Run one piece of work in a process of its own, within a bound of time and of memory, and say how it ended."""

from __future__ import annotations

import contextlib
import json
import os
import resource
import select
import signal
import time
import traceback
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from hf_finetune.errors import FinetuneError, machine_errors

MEBIBYTE = 1024**2
MOST_SAID = 60_000


@dataclass(frozen=True)
class Outcome:
    """How it ended: `done`, `refused`, `traceback`, `killed` by a signal or `late`; what it said; for how long."""

    end: str
    said: str
    seconds: float


def run_bounded(work: Callable[[], Any], *, seconds: float, mebibytes: int) -> Outcome:
    """Run `work` in a fork of this process; `mebibytes` is what it may take on top of what is there.

    What this process has imported need not be imported again, so that a run costs milliseconds.
    """
    start = time.monotonic()
    reader, writer = os.pipe()
    process = os.fork()
    if process == 0:
        _be_the_child(work, writer, mebibytes)
    os.close(writer)
    said = _read_until(reader, start + seconds)
    late = said is None
    if late:
        os.kill(process, signal.SIGKILL)
    _, status = os.waitpid(process, 0)
    os.close(reader)
    taken = time.monotonic() - start
    if late:
        return Outcome("late", "", taken)
    if os.WIFSIGNALED(status) or not said:
        return Outcome("killed", f"status {status}", taken)
    end, text = json.loads(said)
    return Outcome(end, text, taken)


def _be_the_child(work: Callable[[], Any], writer: int, mebibytes: int) -> None:
    with contextlib.suppress(BaseException):
        os.write(writer, json.dumps(_end_of(work, mebibytes)).encode())
    os._exit(0)


def _end_of(work: Callable[[], Any], mebibytes: int) -> tuple[str, str]:
    with open("/proc/self/statm", encoding="ascii") as file:
        now = int(file.read().split()[0]) * os.sysconf("SC_PAGE_SIZE")
    resource.setrlimit(resource.RLIMIT_AS, (now + mebibytes * MEBIBYTE,) * 2)
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
    nowhere = os.open(os.devnull, os.O_RDWR)
    for stream in (0, 1, 2):
        os.dup2(nowhere, stream)
    try:
        with machine_errors():
            work()
    except FinetuneError as problem:
        return "refused", str(problem)[:MOST_SAID]
    except BaseException:
        return "traceback", traceback.format_exc()[-MOST_SAID:]
    return "done", ""


def _read_until(reader: int, deadline: float) -> bytes | None:
    """All that comes from a pipe before it is closed; None where it is still open at the deadline."""
    parts = []
    while (left := deadline - time.monotonic()) > 0:
        if not select.select([reader], [], [], left)[0]:
            return None
        part = os.read(reader, MOST_SAID)
        if not part:
            return b"".join(parts)
        parts.append(part)
    return None
