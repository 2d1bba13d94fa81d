"""Answered rows beside the file that they will be: what was written is kept, and gone on behind.

answers.jsonl.partial/record.json    what the answers were made from
answers.jsonl.partial/1.jsonl        the rows that are answered; 2.jsonl: those that the base has answered as well
"""

from __future__ import annotations

import errno
import json
import os
import shutil
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any, BinaryIO, Protocol

from hf_finetune.errors import CannotWriteError, ConfigError, FolderInUse, Problem, advise_writing, find_writing_code
from hf_finetune.files import make_private_folder, open_private, open_rows_atomically, sync_folder, write_atomically

try:
    import fcntl
except ImportError:  # Windows
    fcntl = None  # type: ignore[assignment]

RECORD = "record.json"
OVERWRITE = "or begin anew with --overwrite"


class RowSink(Protocol):
    """Where answered rows go."""

    def find(self, begins: Sequence[bytes]) -> bool:
        """Whether the next rows, which begin so, are all there already."""

    def write(self, lines: Sequence[bytes]) -> None:
        """Write the next rows."""


@dataclass(slots=True)
class RowStream:
    """A stream, which keeps nothing that could be gone on behind."""

    stream: BinaryIO

    def find(self, begins: Sequence[bytes]) -> bool:
        return False

    def write(self, lines: Sequence[bytes]) -> None:
        self.stream.writelines(lines)
        self.stream.flush()


@dataclass(slots=True)
class RowFile:
    """A file of rows that an earlier call may have begun."""

    file: BinaryIO
    shown: str
    """The folder, for messages."""
    anew: bool = False
    """Rows that are others than those asked now are written over."""
    at_end: bool = False
    """Nothing more was there to be found."""
    rows: int = 0

    def find(self, begins: Sequence[bytes]) -> bool:
        """Look for the next rows. Raises `ConfigError` where others are in their place."""
        if self.at_end:
            return False
        start = self.file.tell()
        lines = [line for _ in begins if (line := self.file.readline()).endswith(b"\n")]
        same = all(line.startswith(begin) for line, begin in zip(lines, begins, strict=False))
        if not same and not self.anew:
            what = f"holds answers to other rows than those that are asked now, from row {self.rows + 1:,} on"
            raise ConfigError(Problem(what, f"name the file of before, {OVERWRITE}", self.shown, code="HF362"))
        if len(lines) == len(begins) and same:
            self.rows += len(lines)
            return True
        # Of a group that is not whole all is answered again, in the batches that it had.
        self.file.seek(start)
        self.file.truncate()
        self.at_end = True
        return False

    def write(self, lines: Sequence[bytes]) -> None:
        """Write the next rows, and put them on the disk. Raises `CannotWriteError`; what was there before stays."""
        start = self.file.tell()
        try:
            self.file.writelines(lines)
            self.file.flush()
            os.fsync(self.file.fileno())
        except OSError as problem:
            with suppress(OSError):
                self.file.seek(start)
                self.file.truncate()
            what = f"cannot be written ({problem.strerror}): {self.rows:,} rows are kept, and the same command goes on"
            code = find_writing_code(problem.errno)
            raise CannotWriteError(Problem(what, advise_writing(problem.errno), self.shown, code=code)) from problem
        self.rows += len(lines)

    def close(self) -> None:
        """Raises `ConfigError` where there are more rows than were asked for."""
        if not self.at_end and self.file.read(1):
            if not self.anew:
                what = f"holds answers to more rows than the {self.rows:,} that are asked now"
                raise ConfigError(Problem(what, f"name the file of before, {OVERWRITE}", self.shown, code="HF362"))
            self.file.seek(self.file.tell() - 1)
            self.file.truncate()


@dataclass(slots=True)
class AnswerFolder:
    """The files of the passes over the rows, of which the last one has all answers."""

    folder: Path
    shown: str
    anew: bool
    last: BinaryIO | None = None
    """The stream that the last pass writes to, where it is to no file."""
    passes: int = 1
    paths: list[Path] = field(default_factory=list)
    sink: RowFile | RowStream | None = None

    @contextmanager
    def open_next(self) -> Iterator[RowSink]:
        """Open what the next pass writes."""
        if self.last is not None and len(self.paths) == self.passes - 1:
            yield RowStream(self.last)
            return
        self.paths.append(self.folder / f"{len(self.paths) + 1}.jsonl")
        with open(os.open(self.paths[-1], os.O_RDWR | os.O_CREAT, 0o600), "r+b") as file:
            self.sink = RowFile(file, self.shown, self.anew)
            yield self.sink
            self.sink.close()

    def describe(self) -> str:
        """What is kept where it ends now."""
        rows = self.sink.rows if isinstance(self.sink, RowFile) and self.last is None else 0
        again = "the same command goes on behind them" if rows else "the same command begins again"
        which = f" of the pass {len(self.paths)} of {self.passes}" if self.passes > 1 else ""
        return (
            f"{rows:,} answered rows{which} are kept in {self.shown}; {again}" if rows else f"no row is kept; {again}"
        )


@contextmanager
def pass_on_answers(stream: BinaryIO, passes: int) -> Iterator[AnswerFolder]:
    """Let the last of the passes write to a stream; those before it write to files that are removed."""
    with TemporaryDirectory(prefix="hf-finetune-") as folder:
        yield AnswerFolder(Path(folder), folder, anew=True, last=stream, passes=passes)


@contextmanager
def keep_answers(output: Path, made_from: Mapping[str, Any], passes: int, *, overwrite: bool) -> Iterator[AnswerFolder]:
    """Keep what is answered in a folder beside `output`, which it becomes when the block ends.

    After an error or a signal the folder stays, unless nothing is in it. Raises `ConfigError` where it holds answers
    that were made from something else, `FolderInUse` where another process writes in it, and OSError.
    """
    shown = f"{output}.partial"
    folder = make_private_folder(Path(shown))
    with _lock(folder, shown):
        try:
            _check_record(folder, shown, made_from, overwrite=overwrite)
            yield (answers := AnswerFolder(folder, shown, overwrite, passes=passes))
            _become(answers.paths[-1], output)
            shutil.rmtree(folder)
        finally:
            if not _has_rows(folder):
                shutil.rmtree(folder, ignore_errors=True)


def _has_rows(folder: Path) -> bool:
    return any(each.stat().st_size for each in folder.glob("*.jsonl"))


def _check_record(folder: Path, shown: str, made_from: Mapping[str, Any], *, overwrite: bool) -> None:
    """Compare what the answers in a folder were made from with `made_from`; write that where there are none.

    Raises `ConfigError` for others, which `overwrite` drops.
    """
    path = folder / RECORD
    try:
        before = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError):
        before = None
    # As it comes back: tuples are lists then.
    now = json.loads(json.dumps(made_from))
    if before == now:
        return
    if _has_rows(folder) and not overwrite:
        known = before if isinstance(before, dict) else {}
        others = " and another ".join(name for name in now if known.get(name) != now[name])
        what = f"holds answers that were made with another {others}"
        raise ConfigError(Problem(what, f"type the command of before, {OVERWRITE}", shown, code="HF362"))
    for each in folder.glob("*.jsonl"):
        each.unlink()
    write_atomically(path, json.dumps(now, indent=2) + "\n", private=True)


@contextmanager
def _lock(folder: Path, shown: str) -> Iterator[None]:
    if fcntl is None:
        yield
        return
    with open(folder / ".lock", "wb", opener=open_private) as file:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError as taken:
            if taken.errno in (errno.EAGAIN, errno.EACCES):
                remedy = "wait until it has ended, or name another file"
                raise FolderInUse(Problem("another process answers these rows", remedy, shown, code="HF704")) from taken
            # some network folders have no flock
        yield


def _become(rows: Path, output: Path) -> None:
    """Make a file of rows `output`, compressed where its name says so."""
    if output.suffix.lower() in (".gz", ".zst"):
        with open_rows_atomically(output) as packed, rows.open("rb") as file:
            shutil.copyfileobj(file, packed)
        return
    os.replace(rows, output)
    sync_folder(output.parent)
