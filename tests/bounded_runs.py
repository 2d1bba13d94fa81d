"""Run pieces of work in a process of their own, each within a bound of time and of memory, and say how each ended."""

from __future__ import annotations

import contextlib
import json
import os
import resource
import signal
import time
import traceback
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import message_recorder

from hf_finetune.errors import FinetuneError, machine_errors

MEBIBYTE = 1024**2
MOST_SAID = 20_000


@dataclass(frozen=True)
class Outcome:
    """How it ended: `done`, `refused`, `traceback`, `killed` or `late`; what it said; and the seconds that it took."""

    end: str
    said: str
    seconds: float
    sites: tuple[str, ...] = ()
    """The message sites that were provoked: `note` tells the table of messages of them."""

    def note(self) -> None:
        """Count what was provoked in the other process as provoked by the test that asks."""
        message_recorder.provoked.update(self.sites)


def run_all_bounded(works: Sequence[Callable[[], Any]], *, seconds: float, mebibytes: int) -> list[Outcome]:
    """Run each of `works` in a fork of this process; `mebibytes` is what they may take on top of what is there.

    One fork runs all of them, so that nothing is imported twice; after one that is late, or ends the process, another
    goes on with the next.
    """
    message_recorder.sites_by_path()  # a second, which would count as one of every work that is late
    outcomes: list[Outcome] = []
    while len(outcomes) < len(works):
        reader, writer = os.pipe()
        process = os.fork()
        if process == 0:
            _be_the_child(works[len(outcomes) :], writer, mebibytes)
        os.close(writer)
        with os.fdopen(reader, encoding="utf-8") as lines:
            outcomes += _read_outcomes(lines, process, seconds)
        os.waitpid(process, 0)
    return outcomes


def run_bounded(work: Callable[[], Any], *, seconds: float, mebibytes: int) -> Outcome:
    """Run one piece of work, as `run_all_bounded` does."""
    return run_all_bounded([work], seconds=seconds, mebibytes=mebibytes)[0]


def _read_outcomes(lines: Any, process: int, seconds: float) -> list[Outcome]:
    """What a child says of each piece that it began; the last one is late where it is killed here for that."""
    found: list[Outcome] = []
    begun = 0

    def kill(*_: object) -> None:
        os.kill(process, signal.SIGKILL)
        late.append(True)

    late: list[bool] = []
    signal.signal(signal.SIGALRM, kill)
    signal.setitimer(signal.ITIMER_REAL, seconds)
    for line in lines:
        if line == "begin\n":
            begun += 1
            signal.setitimer(signal.ITIMER_REAL, seconds)
        else:
            found.append(Outcome(*json.loads(line)))
    signal.setitimer(signal.ITIMER_REAL, 0)
    if begun > len(found):
        found.append(Outcome("late", "", seconds) if late else Outcome("killed", "", 0.0))
    assert found, "a child did not begin"
    return found


def _be_the_child(works: Sequence[Callable[[], Any]], writer: int, mebibytes: int) -> None:
    with contextlib.suppress(BaseException):
        _bound_memory(mebibytes)
        for work in works:
            os.write(writer, b"begin\n")
            os.write(writer, json.dumps(_run(work)).encode() + b"\n")
    os._exit(0)


def _bound_memory(mebibytes: int) -> None:
    with open("/proc/self/statm", encoding="ascii") as file:
        now = int(file.read().split()[0]) * os.sysconf("SC_PAGE_SIZE")
    resource.setrlimit(resource.RLIMIT_AS, (now + mebibytes * MEBIBYTE,) * 2)
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
    nowhere = os.open(os.devnull, os.O_RDWR)
    for stream in (0, 1, 2):
        os.dup2(nowhere, stream)


def _run(work: Callable[[], Any]) -> tuple[str, str, float, list[str]]:
    message_recorder.provoked.clear()
    start = time.monotonic()
    end, said = "done", ""
    try:
        with machine_errors():
            work()
    except FinetuneError as problem:
        end, said = "refused", str(problem)[:MOST_SAID]
    except BaseException:
        end, said = "traceback", traceback.format_exc()[-MOST_SAID:]
    return end, said, time.monotonic() - start, sorted(message_recorder.provoked)
