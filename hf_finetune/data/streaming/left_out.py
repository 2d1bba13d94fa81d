"""Lines of a stream that are left out: counted by chunks, kept beside parts, and named in the folder of the run."""

from __future__ import annotations

import io
import json
import logging
import mmap
import os
from collections import deque
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from functools import lru_cache
from itertools import islice
from pathlib import Path
from typing import BinaryIO

import msgspec

from hf_finetune.cache.arrays import PIECE, give_back
from hf_finetune.data.reading.json_line import LineError
from hf_finetune.data.reading.reader import LineCounts
from hf_finetune.files import open_atomically, open_private
from hf_finetune.folders import REJECTED_LINES
from hf_finetune.privacy import redact_path

logger = logging.getLogger(__name__)

MAX_LINES_SAID = 5
"""Lines of a shard that are named in the log."""

Keep = Callable[[int, int, str, str], None]
"""Takes a line that is left out: the number of the pass, its id as that of a row, the reason and its code."""


class LineTally:
    """Counts the lines that are left out, by the chunk in whose rows they lie."""

    # Lines are read by blocks, and a chunk ends inside of one: each counts with the chunk that it lies in, so that the
    # counts are the same wherever parts end. Lines without a row between them are one run: of a shard that holds
    # nothing else there may be millions.

    def __init__(self, keep: Keep | None) -> None:
        self._keep = keep
        self._behind = 0
        self._runs: deque[list[int]] = deque()
        """How many rows come before each run, its last line, and its lines."""

    def enter(self, tally: LineCounts, pass_number: int, shard: int, first: int) -> None:
        """Take the lines of a shard, whose ids begin at `shard`, from `first` on; `tally` counts all of them."""
        # Behind the last row of the shard before: they lie in the next chunk, whichever it is.
        self._behind += sum(count for _, _, count in self._runs)
        self._runs.clear()
        self._tally, self._pass, self._shard, self._first = tally, pass_number, shard, first

    def add(self, line: int, bad: LineError) -> None:
        """Take a line that is left out."""
        if line < self._first:  # of a block that is read again
            return
        before = self._tally.lines - self._tally.blank - self._tally.rejected
        if self._runs and self._runs[-1][0] == before:
            self._runs[-1][1:] = line, self._runs[-1][2] + 1
        else:
            self._runs.append([before, line, 1])
        if self._keep is not None:
            self._keep(self._pass, self._shard + line, bad.reason, bad.code)

    def count_until(self, last: int) -> int:
        """Count those up to the row of line `last`, and forget them."""
        count, self._behind = self._behind, 0
        while self._runs and self._runs[0][1] <= last:
            count += self._runs.popleft()[2]
        return count


class _Line(msgspec.Struct, array_like=True):
    """A line that is left out, as it is kept beside a part."""

    pass_number: int
    row: int
    reason: str
    code: str


@contextmanager
def keep_left_out(path: Path) -> Iterator[Keep]:
    """Write the lines that are left out of a part into a file beside it. Raises OSError."""
    with open_atomically(path, private=True) as out:
        # Not held: there may be as many as rows.
        yield lambda *line: _write(out, _Line(*line))


def _write(out: BinaryIO, line: _Line) -> None:
    out.write(msgspec.json.encode(line) + b"\n")


@dataclass(frozen=True)
class LeftOut:
    """The lines that are left out of a part, in a file that is mapped."""

    lines: mmap.mmap | io.BytesIO
    first: int
    """Those before belong to the parts before, which have ended in the same chunk."""
    count: int

    @classmethod
    def map(cls, path: Path, first: int, count: int) -> LeftOut:
        """Those of the file of `keep_left_out`, of which as many lie in the chunks of the part. Raises OSError."""
        # Mapped and not left open: `hf-finetune cache` may remove it before the part is trained.
        with path.open("rb") as file:
            empty = not count or not path.stat().st_size
            return cls(io.BytesIO() if empty else mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ), first, count)

    def iterate(self) -> Iterator[tuple[int, str, str]]:
        """Yield id, reason and code of each line of the first pass: in the next ones all of them come again."""
        self.lines.seek(0)
        lines = islice(iter(self.lines.readline, b""), self.first, self.first + self.count)
        for number, line in enumerate(lines):
            if number % PIECE == 0 and isinstance(self.lines, mmap.mmap):
                give_back(self.lines)
            found = msgspec.json.decode(line, type=_Line)
            if not found.pass_number:
                yield found.row, found.reason, found.code


class LeftOutNames:
    """Names lines that are left out in the folder of a run, part by part as they are trained; says the first ones."""

    def __init__(self, folder: Path, locate: Callable[[int], tuple[str, int]]) -> None:
        self._path, self._locate = folder / REJECTED_LINES, locate
        self._begun = False
        self._shard, self._said = "", 0

    def add(self, number: int, left_out: LeftOut) -> None:
        """Add the lines of part `number`, which is trained now. Raises OSError."""
        if not self._begun:  # where the run goes on, that part and later ones may be there
            _cut_off(self._path, number)
            self._begun = True
        if not left_out.count:
            return
        redact = lru_cache(1)(redact_path)  # of a shard at a time: it asks the system for the working folder
        with open(self._path, "ab", opener=open_private) as out:
            for row, reason, code in left_out.iterate():
                shown, line = self._locate(row)
                self._say(shown, line, reason, code)
                named = {"file": redact(shown), "line": line, "reason": reason, "code": code, "part": number + 1}
                out.write(json.dumps(named, ensure_ascii=False).encode() + b"\n")
            out.flush()
            os.fsync(out.fileno())  # a checkpoint that knows of the part is on the disk, too

    def _say(self, shown: str, line: int, reason: str, code: str) -> None:
        self._shard, self._said = shown, self._said + 1 if shown == self._shard else 1
        if self._said <= MAX_LINES_SAID:
            logger.warning("%s:%d is left out: %s", shown, line, reason, extra={"code": code})
        elif self._said == MAX_LINES_SAID + 1:
            what = "%s: more lines are left out, each of which %s names"
            logger.warning(what, shown, REJECTED_LINES, extra={"code": code})


class _Named(msgspec.Struct):
    """A line of `REJECTED_LINES`, of which only the part matters here."""

    part: int = 0
    """From 1; 0 is that of a file which is no shard."""


def iterate_named(path: Path) -> Iterator[bytes]:
    """Yield the lines of a run's file that name lines of its stream, without a piece of one at the end.

    Raises OSError.
    """
    with suppress(FileNotFoundError), path.open("rb") as file:
        for line in file:
            if line.endswith(b"\n") and _read_part(line):
                yield line


def _cut_off(path: Path, number: int) -> None:
    """Cut off the lines of part `number` and later ones, and what a killed process has left of a line."""
    end = 0
    with suppress(FileNotFoundError):
        with path.open("rb") as file:
            for line in file:
                if not line.endswith(b"\n") or _read_part(line) > number:
                    break
                end += len(line)
        os.truncate(path, end)


def _read_part(line: bytes) -> int:
    try:
        return msgspec.json.decode(line, type=_Named).part
    except msgspec.DecodeError:
        return 0
