"""One run per folder: the lock that its process holds, which a dead process has lost.

    .lock       process, host and times of whoever writes into the folder

The system holds the lock (flock), and lets go of it however the process ends. Where there is no flock (Windows, some
network folders) the file itself is the lock. A network folder may have a flock that other hosts do not see: there a
thread touches the file, and the owner on another host is dead once it has not done so for a minute.
"""

from __future__ import annotations

import atexit
import errno
import json
import os
import socket
import stat
import tempfile
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import asdict, dataclass, field
from datetime import datetime
from functools import cache
from pathlib import Path
from typing import Any

import psutil

from hf_finetune.errors import FolderInUse, Problem
from hf_finetune.files import write_atomically
from hf_finetune.folders.ownership import LOCK, foreign_entry, make_run_folder, refuse_folder, remove_empty
from hf_finetune.folders.record_kinds import parse_record
from hf_finetune.ranks import is_first_rank

try:
    import fcntl
except ImportError:  # Windows
    fcntl = None  # type: ignore[assignment]

HEARTBEAT_S = 10.0
DEAD_AFTER_S = 60.0
"""Without a heartbeat of an owner on another host."""
NO_FLOCK = (errno.ENOLCK, errno.ENOSYS, errno.EOPNOTSUPP, errno.EINVAL)
CLOCKS_DIFFER_S = 5.0
"""A process's time of birth is computed from the clock, which may be set right."""
MAX_RECORD_BYTES = 2**12
MAX_PID, LAST_SECOND = 2**31 - 1, 2**36
# File systems that other hosts may have open, by how their names begin.
_SHARED = ("nfs", "cifs", "smb", "lustre", "gpfs", "beegfs", "ceph", "gluster", "fuse", "9p", "afs", "panfs", "weka")


@dataclass(frozen=True)
class Owner:
    """Who holds a lock, as the file says."""

    pid: int
    host: str
    born: float
    """When the process began; another one may have its number later."""
    since: float


@dataclass
class _Held:
    """A lock that this process holds."""

    folder: Path
    owner: Owner
    descriptor: int | None
    """Of the file with the flock; None where the file itself is the lock."""
    made: list[Path]
    """Folders that were made for it, the innermost first."""
    ended: threading.Event = field(default_factory=threading.Event)


_held: dict[str, _Held] = {}


def hold_run_folder(output_dir: str, *, patience_s: float = 0.0) -> bool:
    """Make the folder of a run and hold its lock until this process ends; whether this process has it now.

    The first of several ranks holds it for all; a folder that is not ours is left alone, and refused later. May be
    called again. Raises `FolderInUse` where another process has it for longer than `patience_s`, and
    `ConfigError` or `CannotWriteError` where nothing can be written there.
    """
    folder = Path(output_dir)
    key = os.path.realpath(folder)
    if not is_first_rank() or key in _held:
        return is_first_rank()
    if foreign_entry(folder, resuming=True) is not None:
        check_not_in_use(output_dir)  # by a run that has written no manifest yet
        return False
    _prepare_process()
    until = time.monotonic() + patience_s
    while True:
        made = make_run_folder(output_dir)
        try:
            held = _take(output_dir, made)
        except FileNotFoundError:  # its owner has ended, and removed the folder with nothing in it
            continue
        except FolderInUse:
            if time.monotonic() >= until:
                raise
            time.sleep(0.1)
            continue
        except OSError as problem:
            remove_empty(made)
            raise refuse_folder(f"{output_dir} cannot be written ({problem.strerror})", problem) from problem
        _held[key] = held
        if held.descriptor is None or _is_shared(folder):
            threading.Thread(target=_beat, args=(held,), name="lock of the run folder", daemon=True).start()
        return True


@contextmanager
def held_run_folder(output_dir: str, *, patience_s: float = 30.0) -> Iterator[None]:
    """Hold the lock of a run folder within the block; one that this process has already stays held."""
    key = os.path.realpath(output_dir)
    had = key in _held
    hold_run_folder(output_dir, patience_s=patience_s)
    try:
        yield
    finally:
        if not had and key in _held:
            _release(_held.pop(key))


def check_not_in_use(output_dir: str) -> None:
    """Raise `FolderInUse` where the record of another living process is in the folder; nothing is taken or written."""
    owner = read_owner(Path(output_dir, LOCK))
    if owner is not None and owner.host == socket.gethostname() and owner.pid != os.getpid() and is_born(owner):
        raise _describe(output_dir, owner)


def release_run_folders() -> None:
    """Let go of every lock of this process: its run has ended."""
    while _held:
        _release(_held.popitem()[1])


def _take(output_dir: str, made: list[Path]) -> _Held:
    """Take the lock, or raise `FolderInUse` or OSError."""
    path = Path(os.path.realpath(output_dir), LOCK)  # a run may change into another folder
    made = [Path(os.path.abspath(each)) for each in made]
    owner = Owner(os.getpid(), socket.gethostname(), psutil.Process().create_time(), time.time())
    descriptor = None if fcntl is None else _lock_file(output_dir, path)
    if descriptor is None:
        with _guarded(path) as now:
            _check_record(output_dir, now)
            write_atomically(path, json.dumps(asdict(owner)), private=True)
        return _Held(path.parent, owner, None, made)
    try:
        if _is_shared(path.parent) and (before := read_owner(path)) is not None and before.host != owner.host:
            with _guarded(path) as now:
                _check_record(output_dir, now)
        os.ftruncate(descriptor, 0)
        os.pwrite(descriptor, json.dumps(asdict(owner)).encode(), 0)
    except BaseException:
        os.close(descriptor)
        raise
    return _Held(path.parent, owner, descriptor, made)


def _lock_file(output_dir: str, path: Path) -> int | None:
    """The open lock file with the flock on it; None where there is no flock. Raises `FolderInUse` and OSError."""
    while True:
        descriptor = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC | os.O_NOFOLLOW, 0o600)
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
            # An owner removes the file while it has the lock: what was opened before that is nobody's any more.
            if os.path.samestat(os.fstat(descriptor), path.stat()):
                return descriptor
        except FileNotFoundError:
            pass
        except BlockingIOError:
            os.close(descriptor)
            raise _describe(output_dir, _wait_for_owner(path)) from None
        except OSError as problem:
            os.close(descriptor)
            if problem.errno not in NO_FLOCK:
                raise
            return None
        os.close(descriptor)


@contextmanager
def _guarded(path: Path) -> Iterator[float]:
    """Let one process at a time look at a record and write its own; yields the time by the clock of the folder's host.

    Raises OSError.
    """
    guard = path.with_name(f"{path.name}.aside")
    until = time.monotonic() + DEAD_AFTER_S
    while True:
        try:
            os.close(os.open(guard, os.O_CREAT | os.O_EXCL | os.O_WRONLY, 0o600))
            break
        except FileExistsError:
            with suppress(OSError):  # it is held for milliseconds, unless its process was killed meanwhile
                if _find_age(guard) > DEAD_AFTER_S or time.monotonic() > until:
                    guard.unlink()
            time.sleep(0.01)
    try:
        yield guard.stat().st_mtime
    finally:
        guard.unlink(missing_ok=True)


def _find_age(path: Path) -> float:
    """Seconds since a file was written, by the clock of the folder's host: that of this one may be an hour ahead."""
    descriptor, name = tempfile.mkstemp(prefix=".clock.", suffix=".aside", dir=path.parent)
    try:
        return os.fstat(descriptor).st_mtime - path.stat().st_mtime
    finally:
        os.close(descriptor)
        os.unlink(name)


def _check_record(output_dir: str, now: float) -> None:
    """Raise `FolderInUse` where the owner that the record names is alive."""
    path = Path(output_dir, LOCK)
    owner = read_owner(path)
    if owner is None:
        return
    if owner.host == socket.gethostname():
        if is_born(owner):
            raise _describe(output_dir, owner)
        return
    if (silent := now - path.stat().st_mtime) < DEAD_AFTER_S:
        raise _describe(output_dir, owner, f", or {DEAD_AFTER_S - silent:.0f} seconds where it was killed")


def is_born(owner: Owner) -> bool:
    """Whether the process of that number on this host is still the one that took the lock."""
    try:
        born: float = psutil.Process(owner.pid).create_time()
    except psutil.NoSuchProcess:
        return False
    except psutil.Error:
        return True
    return abs(born - owner.born) < CLOCKS_DIFFER_S


def _wait_for_owner(path: Path) -> Owner | None:
    """Who holds a lock, which was taken a moment before it says so."""
    for _ in range(10):
        if (owner := read_owner(path)) is not None:
            return owner
        time.sleep(0.01)
    return None


def read_owner(path: Path) -> Owner | None:
    """Who holds the lock that `path` is, as it says; None where nobody has said so."""
    try:
        if not stat.S_ISREG(path.lstat().st_mode):  # a pipe that somebody has left would be waited for
            return None
        with path.open("rb") as file:
            record: Any = parse_record(file.read(MAX_RECORD_BYTES).decode())
        owner = Owner(int(record["pid"]), str(record["host"])[:100], float(record["born"]), float(record["since"]))
    except (OSError, ValueError, KeyError, TypeError, OverflowError):
        return None
    # Any number may stand there, and of most of them there is no process and no day.
    known = 0 < owner.pid <= MAX_PID and all(0 <= each <= LAST_SECOND for each in (owner.born, owner.since))
    return owner if known else None


def _describe(output_dir: str, owner: Owner | None, more: str = "") -> FolderInUse:
    who = "another process"
    if owner is not None:
        since = datetime.fromtimestamp(owner.since).strftime("%Y-%m-%d %H:%M:%S")
        who = f"process {owner.pid} on {owner.host} since {since}"
    remedy = f"wait until that has ended{more}, or name another output_dir"
    return FolderInUse(Problem(f"is in use by {who}; nothing was written", remedy, path=output_dir, code="HF704"))


def _release(held: _Held) -> None:
    held.ended.set()
    path = held.folder / LOCK
    with suppress(OSError):  # the folder is gone, or cannot be written any more
        # Another has it where this process slept for longer than its heartbeat may be late.
        if read_owner(path) == held.owner:
            path.unlink()
    if held.descriptor is not None:
        os.close(held.descriptor)
    remove_empty(held.made)


def _beat(held: _Held) -> None:
    """Say to other hosts that the owner is alive."""
    path = held.folder / LOCK
    while not held.ended.wait(HEARTBEAT_S):
        with suppress(OSError):
            if read_owner(path) != held.owner:
                return
            os.utime(path)


def _is_shared(folder: Path) -> bool:
    """Whether other hosts may have the folder open."""
    place = Path(os.path.realpath(folder))
    with suppress(OSError):
        mounts = [each for each in psutil.disk_partitions(all=True) if place.is_relative_to(each.mountpoint)]
        innermost = max(mounts, key=lambda each: len(each.mountpoint), default=None)
        return innermost is not None and innermost.fstype.lower().startswith(_SHARED)
    return False


@cache
def _prepare_process() -> None:
    """A forked child has no lock: it would hold its parent's for longer than that lives."""
    atexit.register(release_run_folders)
    if hasattr(os, "register_at_fork"):
        os.register_at_fork(after_in_child=_forget)


def _forget() -> None:
    for held in _held.values():
        if held.descriptor is not None:
            os.close(held.descriptor)
    _held.clear()
