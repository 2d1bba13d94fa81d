"""Every call by which a save changes the disk, in order, and a crash at any of them.

`watch_disk(root)` stands between Python and the file system for all that lies in `root`: it keeps a `Call` for each
change, with what was written. With `crash_at` the machine stops there: before the call, after it or, for a write, in
its middle. What would run afterwards, as in a `finally`, changes nothing any more: every later call fails as well.
"""

from __future__ import annotations

import builtins
import io
import os
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from safetensors.torch import save_file

from hf_finetune.training.checkpoints import disk

BEFORE, HALF, AFTER = "before", "half", "after"
AUDITED = {"os.rename": "rename", "os.remove": "unlink", "os.mkdir": "mkdir", "os.rmdir": "rmdir"}


class Crash(BaseException):
    """The machine has stopped."""


@dataclass(frozen=True)
class Call:
    """A change of the disk: `create`, `write`, `sync`, `rename`, `unlink`, `mkdir` or `rmdir`."""

    kind: str
    path: Path
    to: Path | None = None
    """The new name."""
    content: bytes = b""
    """What was written behind what was there."""

    @property
    def moments(self) -> tuple[str, ...]:
        return (BEFORE, HALF, AFTER) if self.kind == "write" else (BEFORE, AFTER)


@dataclass
class Disk:
    """What has been done to the files in `root`; `stop` is called at the call and the moment of `crash_at`."""

    root: Path
    crash_at: tuple[int, str] | None = None
    stop: Callable[[], None] = lambda: None
    calls: list[Call] = field(default_factory=list)
    crashed: bool = False
    acting: bool = False
    """Whether what is audited now is done by a call that is kept already."""
    missed: list[tuple[str, str]] = field(default_factory=list)
    """Changes that no call stands for."""

    def do(self, call: Call, act: Callable[[], Any], half: Callable[[], Any] = lambda: None) -> Any:
        """Make a change, unless the machine stops at it or has stopped."""
        if self.crashed:
            raise Crash
        self.calls.append(call)
        self._reach(BEFORE)
        if self.crash_at == (len(self.calls) - 1, HALF):
            half()
        self._reach(HALF)
        self.acting = True
        try:
            found = act()
        except OSError:  # as of a folder that is there
            self.calls.pop()
            raise
        finally:
            self.acting = False
        try:
            self._reach(AFTER)
        except Crash:
            if hasattr(found, "close"):  # a file that was opened
                found.close()
            raise
        return found

    def holds(self, path: Path) -> bool:
        return path == self.root or self.root in path.parents

    def _reach(self, moment: str) -> None:
        if self.crash_at == (len(self.calls) - 1, moment):
            self.crashed = True
            self.stop()
            raise Crash


class Written:
    """A file that is open for writing: each write is a call, and is in the file when it returns."""

    def __init__(self, disk: Disk, file: Any, path: Path) -> None:
        self.disk, self.file, self.path = disk, file, path

    def write(self, content: bytes | str) -> int:
        raw = content if isinstance(content, bytes | bytearray | memoryview) else content.encode()
        half = content[: len(content) // 2]
        self.disk.do(Call("write", self.path, content=bytes(raw)), lambda: self._put(content), lambda: self._put(half))
        return len(content)

    def _put(self, content: Any) -> None:
        self.file.write(content)
        self.file.flush()

    def __getattr__(self, name: str) -> Any:
        return getattr(self.file, name)

    def __enter__(self) -> Written:
        return self

    def __exit__(self, *raised: object) -> None:
        self.file.close()


@contextmanager
def watch_disk(
    root: Path, crash_at: tuple[int, str] | None = None, stop: Callable[[], None] = lambda: None
) -> Iterator[Disk]:
    """Keep every change in `root` that is made in the block; at `crash_at` it ends, without an error."""
    watched = Disk(root.resolve(), crash_at, stop)
    before = {(owner, name): getattr(owner, name) for owner, name in _list_replaced()}
    for (owner, name), real in before.items():
        setattr(owner, name, _replace(watched, name, real))
    _audited.append(watched)
    try:
        with suppress(Crash):
            yield watched
    finally:
        _audited.remove(watched)
        for (owner, name), real in before.items():
            setattr(owner, name, real)


def _list_replaced() -> list[tuple[Any, str]]:
    of_os = ("open", "fsync", "rename", "replace", "unlink", "remove", "mkdir", "rmdir")
    return [(builtins, "open"), (io, "open"), (disk, "save_file"), *((os, name) for name in of_os)]


def _replace(watched: Disk, name: str, real: Callable[..., Any]) -> Callable[..., Any]:
    if name == "open":
        return _open_by_number(watched, real) if real is _OPEN else _open_file(watched, real)
    if name == "save_file":
        return lambda tensors, path, metadata=None: _save(watched, tensors, Path(path), metadata)
    if name == "fsync":
        return lambda number: _on(watched, _find(number), lambda path: Call("sync", path), lambda: real(number))
    if name in ("rename", "replace"):
        return lambda one, other, **more: _on(
            watched,
            _find(one, more),
            lambda path: Call("rename", path, _find(other, more)),
            lambda: real(one, other, **more),
        )
    kind = "unlink" if name == "remove" else name
    return lambda path, *rest, **more: _on(
        watched, _find(path, more), lambda found: Call(kind, found), lambda: real(path, *rest, **more)
    )


def _on(watched: Disk, path: Path, make: Callable[[Path], Call], act: Callable[[], Any]) -> Any:
    return watched.do(make(path), act) if watched.holds(path) else act()


def _find(path: Any, more: Any = None) -> Path:
    """The absolute path of a name, a name in an open folder, or the number of an open file."""
    if isinstance(path, int):
        return Path(os.readlink(f"/proc/self/fd/{path}"))
    folder = (more or {}).get("dir_fd")
    base = Path(os.readlink(f"/proc/self/fd/{folder}")) if folder is not None else Path.cwd()
    return base / os.fspath(path)


def _open_file(watched: Disk, real: Callable[..., Any]) -> Callable[..., Any]:
    def open_file(path: Any, mode: str = "r", *rest: Any, **more: Any) -> Any:
        named = None if isinstance(path, int) else _find(path)
        if named is None or not set(mode) & set("wxa+") or not watched.holds(named):
            return real(path, mode, *rest, **more)
        file = watched.do(Call("create", named), lambda: real(path, mode, *rest, **more))
        return Written(watched, file, named)

    return open_file


def _open_by_number(watched: Disk, real: Callable[..., Any]) -> Callable[..., Any]:
    def open_by_number(path: Any, flags: int, *rest: Any, **more: Any) -> Any:
        named = _find(path, more)
        if not flags & os.O_CREAT or not watched.holds(named) or watched.acting:
            return real(path, flags, *rest, **more)
        return watched.do(Call("create", named), lambda: real(path, flags, *rest, **more))

    return open_by_number


def _save(watched: Disk, tensors: Any, path: Path, metadata: Any) -> None:
    """safetensors writes from Rust: the bytes are made beside, and written as a file of Python's would be."""
    if not watched.holds(path):
        save_file(tensors, path, metadata)
        return
    beside = watched.root.parent / f"{watched.root.name}-{path.name}-beside"
    save_file(tensors, beside, metadata)
    content = beside.read_bytes()
    beside.unlink()
    with open(path, "wb") as file:
        file.write(content)


_OPEN = os.open
_audited: list[Disk] = []


def _audit(event: str, arguments: tuple[Any, ...]) -> None:
    """Note every change that Python reports and no call stands for."""
    if not _audited or _audited[-1].acting:
        return
    if event == "open":
        path, _, flags = arguments
        changes = isinstance(path, str) and isinstance(flags, int) and flags & (os.O_WRONLY | os.O_RDWR | os.O_CREAT)
    else:
        path, changes = arguments[0], event in AUDITED
    if changes and _audited[-1].holds(_find(path)):
        _audited[-1].missed.append((event, str(path)))


sys.addaudithook(_audit)
