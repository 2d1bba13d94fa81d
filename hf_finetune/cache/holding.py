"""One process at a time fills an entry of the cache; the others wait for its file, and not for each other.

No barrier of a launch: with NCCL one ends a run after ten minutes or thirty, and rows may take longer.
"""

from __future__ import annotations

import glob
import json
import logging
import os
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import asdict
from pathlib import Path
from typing import TypeVar

from hf_finetune.cache.leftovers import sweep_cache
from hf_finetune.errors import DataError, FinetuneError, ModelError, Problem
from hf_finetune.ranks import is_first_rank, name_launch

try:
    import fcntl
except ImportError:  # Windows
    fcntl = None  # type: ignore[assignment]

logger = logging.getLogger(__name__)

Found = TypeVar("Found")

SECONDS_UNSAID = 5.0
"""For which another process is waited for without a word."""
POLL_SECONDS = 0.001, 0.1
"""At first, and at most."""
SECONDS_AFTER_THE_FIRST = 1.0
"""So long the other ranks of a launch leave it to the first one to begin: what it logs on the way is shown."""

# What follows from the inputs, and from nothing that one process has and another one has not.
_SAME_FOR_ALL: dict[str, type[FinetuneError]] = {"DataError": DataError, "ModelError": ModelError}


def find_or_make(path: Path, find: Callable[[], Found | None], make: Callable[[], Found]) -> Found:
    """What `find` finds of an entry, or what `make` makes of it where that is None; see `hold_entry`.

    Raises what they raise, and OSError.
    """
    if (found := find()) is not None:
        return found
    with hold_entry(path):
        if (found := find()) is not None:  # another process has made it meanwhile
            return found
        sweep_cache(path.parent)
        return make()


@contextmanager
def hold_entry(path: Path) -> Iterator[None]:
    """Let one process at a time fill an entry of the cache; the others wait for it, and say so.

    Where a rank finds that data or model are at fault, those that wait for it raise what it raises. The system lets go
    of the lock when its process ends, however that ends: the next one fills the entry. Where it has none (Windows,
    some network folders) processes may do the same work twice, and the last one's files stay. Raises OSError.
    """
    lock = path.with_name(f".{path.stem}.lock")
    _let_the_first_begin(lock, path)
    descriptor = _take(lock, path.name)
    try:
        if descriptor is not None:  # nobody else is at it: what is half-written is of a process that was killed
            for left in path.parent.glob(f".{glob.escape(path.name)}.*.aside"):
                left.unlink(missing_ok=True)
        yield
    except FinetuneError as problem:
        if descriptor is not None:
            _leave_word(descriptor, problem)
        raise
    finally:
        if descriptor is not None:
            lock.unlink(missing_ok=True)  # before it is let go: who waits sees that it is another file
            os.close(descriptor)


def _let_the_first_begin(lock: Path, path: Path) -> None:
    end = time.monotonic() + SECONDS_AFTER_THE_FIRST
    while not is_first_rank() and not (lock.exists() or path.exists()) and time.monotonic() < end:
        time.sleep(POLL_SECONDS[0])


def _take(lock: Path, name: str) -> int | None:
    """Open and lock a file, or wait until it can be; None where there are no locks."""
    while fcntl is not None:
        descriptor = os.open(lock, os.O_RDWR | os.O_CREAT | getattr(os, "O_CLOEXEC", 0), 0o600)
        kept = False
        try:
            if not _wait_for(descriptor, name):
                return None
            with suppress(FileNotFoundError):
                kept = os.fstat(descriptor).st_ino == lock.stat().st_ino
            if kept:
                os.ftruncate(descriptor, 0)  # the word of one that was killed as it left it
                return descriptor
            # Its owner has ended, and removed the file that was waited for.
            if (problem := _read_word(descriptor)) is not None:
                raise problem
        finally:
            if not kept:
                os.close(descriptor)
    return None


def _wait_for(descriptor: int, name: str) -> bool:
    """Lock an open file, however long another process has it; False in a network folder without locks."""
    began, said, pause = time.monotonic(), False, POLL_SECONDS[0]
    while True:
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
            return True
        except BlockingIOError:
            # Not a blocking flock: Ctrl-C and a message come in between.
            if not said and time.monotonic() - began > SECONDS_UNSAID:
                logger.info("waiting for another process, which makes %s in the cache", name)
                said = True
            time.sleep(pause)
            pause = min(2 * pause, POLL_SECONDS[1])
        except OSError:
            return False


def _leave_word(descriptor: int, problem: FinetuneError) -> None:
    """Write into the lock file what the other ranks of this launch would find as well."""
    launch, kind = name_launch(), type(problem).__name__
    if launch is None or kind not in _SAME_FOR_ALL:
        return
    found = {"kind": kind, "problems": [asdict(each) for each in problem.problems], "total": problem.total}
    with suppress(OSError):  # on a full disk each finds it by itself
        os.pwrite(descriptor, json.dumps({"launch": launch, **found}).encode(), 0)


def _read_word(descriptor: int) -> FinetuneError | None:
    """What the process that had this lock has found at fault; None where it was of another launch, or found nothing."""
    try:
        word = json.loads(os.pread(descriptor, os.fstat(descriptor).st_size, 0))
        if word["launch"] != name_launch():
            return None
        problems = [Problem(code=each.pop("code"), **each) for each in word["problems"]]
        return _SAME_FOR_ALL[word["kind"]](problems, total=word["total"])
    except (ValueError, KeyError, TypeError):  # nothing as a rule
        return None
