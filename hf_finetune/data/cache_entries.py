"""The files of the cache: filled by one process at a time, listed, verified, and removed.

    KIND-KEY.arrow      tokens or rows, found by what they were made from
    KIND-KEY.json       their counts, and the sha256 of the Arrow file
    KIND-KEY.rejected.jsonl, KIND-KEY.prints.npz    lines that were left out of rows, and prints of a part's rows
    .KIND-KEY.lock      is locked by the process that makes them, for as long as it does

What else is there (a key, scores of a base, downloads) is neither listed nor removed. Nothing here imports more than
the standard library and psutil.
"""

from __future__ import annotations

import hashlib
import json
import logging
import os
import re
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path

import psutil

try:
    import fcntl
except ImportError:  # Windows
    fcntl = None  # type: ignore[assignment]

logger = logging.getLogger(__name__)

SECONDS_UNSAID = 5.0
"""For which another process is waited for without a word."""
POLL_SECONDS = 0.01, 0.5
"""At first, and at most."""
SECONDS_OF_LEFTOVERS = 3_600.0
"""How old what a killed process has left must be: a cache may be shared with machines whose processes are not seen."""

BESIDE = (".json", ".rejected.jsonl", ".prints.npz")
"""The endings of the files that belong to an Arrow file."""

_ENTRY = re.compile(r"([a-z_]+)-([0-9a-f]{32})\.arrow")
_LEFT = re.compile(r"\..+\.(\d+)\.aside")


@dataclass(frozen=True, slots=True)
class Entry:
    """One entry of the cache."""

    path: Path
    """Of its Arrow file."""
    kind: str
    size: int
    """Bytes of its files."""
    used: float
    """When it was made or loaded last, in seconds since 1970."""

    @property
    def sidecar(self) -> Path:
        """The file of its counts."""
        return self.path.with_suffix(".json")


def find_cache(datasets_cache: Path) -> Path:
    """The folder of the cache inside that of `datasets`."""
    return datasets_cache / "hf_finetune"


def list_entries(folder: Path) -> list[Entry]:
    """List the entries of the cache, the one that was used last first. Raises OSError."""
    entries = []
    for path in folder.iterdir() if folder.is_dir() else ():
        if found := _ENTRY.fullmatch(path.name):
            with suppress(FileNotFoundError):  # it was removed meanwhile
                facts, others = path.stat(), [path.with_suffix(ending) for ending in BESIDE]
                size = facts.st_size + sum(other.stat().st_size for other in others if other.exists())
                entries.append(Entry(path, found[1], size, facts.st_mtime))
    return sorted(entries, key=lambda entry: (-entry.used, entry.path.name))


def choose_to_remove(entries: list[Entry], *, older_than: float | None, to_size: int | None, now: float) -> list[Entry]:
    """Choose what was not used for `older_than` seconds, and what was used longest ago until `to_size` bytes stay."""
    # Of 3, 2 and 4 bytes, used in this order from the last to the first, 5 bytes keep the first two.
    chosen, kept = [], 0
    for entry in entries:
        # What is too large for the room that is left is passed over, and smaller ones behind it may stay.
        old = older_than is not None and now - entry.used > older_than
        if old or (to_size is not None and kept + entry.size > to_size):
            chosen.append(entry)
        else:
            kept += entry.size
    return chosen


def remove_entry(entry: Entry) -> None:
    """Remove an entry. A run that reads it goes on reading where the system keeps open files. Raises OSError."""
    remove_files(entry.path)


def remove_files(arrow: Path) -> None:
    """Remove an Arrow file and what belongs to it. Raises OSError."""
    arrow.unlink(missing_ok=True)  # first: without it the counts are of nothing
    for ending in BESIDE:
        arrow.with_suffix(ending).unlink(missing_ok=True)


def is_damaged(entry: Entry) -> bool:
    """Whether the Arrow file of an entry is not as it was written, or its counts are missing. Raises OSError."""
    try:
        expected = json.loads(entry.sidecar.read_text())["sha256"]
    except (ValueError, KeyError, TypeError, FileNotFoundError):
        return True
    with entry.path.open("rb") as file:
        return bool(hashlib.file_digest(file, "sha256").hexdigest() != expected)


def sweep_cache(folder: Path) -> int:
    """Remove what killed processes have left half-written, and count the files."""
    swept = 0
    for path in folder.iterdir():
        if (found := _LEFT.fullmatch(path.name)) and not psutil.pid_exists(int(found[1])):
            with suppress(OSError):  # it belongs to another user, or is gone
                if time.time() - path.stat().st_mtime > SECONDS_OF_LEFTOVERS:
                    path.unlink()
                    swept += 1
    return swept


@contextmanager
def hold_entry(arrow: Path) -> Iterator[None]:
    """Let one process at a time fill an entry of the cache; the others wait for it, and say so.

    The system lets go of the lock when its process ends, however that ends. Where it has none (Windows, some network
    folders) processes may do the same work twice, and the last one's files stay. Raises OSError.
    """
    lock = arrow.with_name(f".{arrow.stem}.lock")
    descriptor = _take(lock, arrow.name)
    try:
        yield
    finally:
        if descriptor is not None:
            lock.unlink(missing_ok=True)  # before it is let go: who waits sees that it is another file
            os.close(descriptor)


def _take(lock: Path, name: str) -> int | None:
    """Open and lock a file, or wait until it can be; None where there are no locks."""
    began, said, pause = time.monotonic(), False, POLL_SECONDS[0]
    while fcntl is not None:
        descriptor = os.open(lock, os.O_RDWR | os.O_CREAT | getattr(os, "O_CLOEXEC", 0), 0o600)
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            # Not a blocking flock: Ctrl-C and a message come in between.
            os.close(descriptor)
            if not said and time.monotonic() - began > SECONDS_UNSAID:
                logger.info("waiting for another process, which makes %s in the cache", name)
                said = True
            time.sleep(pause)
            pause = min(2 * pause, POLL_SECONDS[1])
            continue
        except OSError:  # a network folder without locks
            os.close(descriptor)
            return None
        with suppress(FileNotFoundError):
            if os.fstat(descriptor).st_ino == lock.stat().st_ino:
                return descriptor
        os.close(descriptor)  # its owner has ended, and removed the file that was waited for
    return None
