"""What else is in the folder of the cache: what killed processes have left there, and the key of row prints."""

from __future__ import annotations

import os
import re
import time
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

import psutil

from hf_finetune.cache.entries import find_kind

try:
    import fcntl
except ImportError:  # Windows, where nothing is locked
    fcntl = None  # type: ignore[assignment]

SECONDS_OF_LEFTOVERS = 3_600.0
"""How old what a killed process has left must be: a cache may be shared with machines whose processes are not seen."""

KEY = "row_prints.key"
ROW_KEY = "key of row prints, by which runs recognize rows of earlier ones"
HALF_WRITTEN, LOCK, WITHOUT_ENTRY = "half-written file", "lock of an entry that is made", "file without its entry"

_ASIDE = re.compile(r"\..+\.(\d+)\.aside")
_BESIDE = re.compile(r"[a-z_]+-[0-9a-f]{32}\.(?:json|rejected\.jsonl|prints\.npz)")


@dataclass(frozen=True, slots=True)
class OtherFile:
    """A file in the folder of the cache that belongs to no entry."""

    path: Path
    kind: str
    """What it is, for a user."""
    size: int


def list_others(folder: Path) -> list[OtherFile]:
    """List what belongs to no entry, by name. Raises OSError."""
    paths = sorted(folder.iterdir()) if folder.is_dir() else []
    made = {_name_entry(path) for path in paths if find_kind(path) is not None}
    others = []
    for path in paths:
        belongs = _BESIDE.fullmatch(path.name) and _name_entry(path) in made
        if find_kind(path) is None and not belongs:
            with suppress(FileNotFoundError):  # it was removed meanwhile
                others.append(OtherFile(path, _describe_kind(path), path.stat().st_size))
    return others


def sweep_cache(folder: Path) -> int:
    """Remove what killed processes have left, and count the files. Raises OSError."""
    swept = 0
    for other in list_others(folder):
        with suppress(OSError):  # it belongs to another user, or is gone
            if time.time() - other.path.stat().st_mtime > SECONDS_OF_LEFTOVERS and _is_left(other):
                swept += _remove_lock(other.path) if other.kind == LOCK else _remove(other.path)
    return swept


def _name_entry(path: Path) -> str:
    """The name of the entry that a file belongs to: of rows-0.rejected.jsonl this is rows-0."""
    return path.name.partition(".")[0]


def _describe_kind(path: Path) -> str:
    if path.name == KEY:
        return ROW_KEY
    if _ASIDE.fullmatch(path.name):
        return HALF_WRITTEN
    if path.name.startswith(".") and path.name.endswith(".lock"):
        return LOCK
    return WITHOUT_ENTRY if _BESIDE.fullmatch(path.name) else "not of this cache"


def _is_left(other: OtherFile) -> bool:
    if found := _ASIDE.fullmatch(other.path.name):
        return not psutil.pid_exists(int(found[1]))
    # The files of an entry are put there one after the other, its own last.
    lock = other.path.with_name(f".{_name_entry(other.path)}.lock")
    return other.kind == LOCK or (other.kind == WITHOUT_ENTRY and not lock.exists())


def _remove(path: Path) -> bool:
    path.unlink()
    return True


def _remove_lock(path: Path) -> bool:
    """Remove the lock of a process that has ended, as `holding` does: while it is ours, and the file is still this."""
    if fcntl is None:
        return False
    descriptor = os.open(path, os.O_RDWR)
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        return os.fstat(descriptor).st_ino == path.stat().st_ino and _remove(path)
    finally:
        os.close(descriptor)
