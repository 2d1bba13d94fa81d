"""log.jsonl of a run folder, read while it is written: whole lines alone, and each line once."""

from __future__ import annotations

import json
import logging
import math
import os
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, BinaryIO

from hf_finetune.errors import DataError, Problem
from hf_finetune.files import is_of_kernel
from hf_finetune.folders import LOG, LOG_FORMAT, MAX_LOG_BYTES
from hf_finetune.folders.record_kinds import is_amount
from hf_finetune.metric_info import parse_number

MAX_LINE_BYTES, LONG_LOG_BYTES = 2**20, 2**24
MAX_PROBLEMS = 1000
LEFT_OUT = "it is left out, and the rest is shown"

logger = logging.getLogger(__name__)

JsonObject = dict[str, Any]
_DECODER = json.JSONDecoder()  # one for all lines, and not one look at the encoding of each


@dataclass
class RunLog:
    """What the lines of a log say, as far as they were read."""

    max_steps: int | None = None
    began: float | None = None
    """When the run began its training, in seconds of the epoch."""
    history: list[dict[str, float]] = field(default_factory=list)
    """Entries with a loss or a figure of an evaluation, as `RunRecord.history` has them."""
    times: list[float] = field(default_factory=list)
    """When each of `history` was written; NaN where that is not known."""
    samples: list[tuple[int, JsonObject]] = field(default_factory=list)
    """(step, sample), oldest first."""
    summary: JsonObject = field(default_factory=dict)
    """The entry with which training has ended; {} before."""
    ended: str | None = None
    """What has ended training early, by its name; None where nothing has said so."""
    lines: int = 0
    problems: list[Problem] = field(default_factory=list)

    @property
    def step(self) -> int:
        """The last step that was logged."""
        return int(self.history[-1]["step"]) if self.history else 0

    def add(self, line: bytes, path: str) -> None:
        """Take in one whole line; what is wrong with it becomes one of `problems`."""
        self.lines += 1
        fault = self._take(line)
        if fault is not None and len(self.problems) < MAX_PROBLEMS:
            self.problems.append(Problem(fault, LEFT_OUT, path=path, line=self.lines, code="HF953"))

    def _take(self, line: bytes) -> str | None:
        try:
            value = _DECODER.decode(line.decode())
        except (ValueError, RecursionError):
            value = None
        if not isinstance(value, dict):
            return "is no line of a log: it was damaged, or is longer than 1 MiB"
        if "log" in value:
            return self._take_head(value)
        if not is_amount(value.get("step")):
            return "is no line of a log: it has no step"
        if isinstance(value.get("sample"), dict):
            self.samples.append((value["step"], value["sample"]))
            return None
        ended = value.get("ended")
        self.ended = ended if isinstance(ended, str) else None
        if "train_runtime" in value:
            self.summary = value
        time = parse_number(value.pop("time", None))
        entry = parse_entry(value)
        if is_point(entry):
            self.history.append(entry)
            self.times.append(math.nan if time is None else time)
        return None

    def _take_head(self, head: JsonObject) -> str | None:
        self.max_steps = head["max_steps"] if is_amount(head.get("max_steps")) else None
        self.began = parse_number(head.get("time"))
        if head["log"] == LOG_FORMAT:
            return None
        return f"is the head of a log of form {str(head['log'])[:20]}, where this version writes {LOG_FORMAT}"


class LogReader:
    """Reads the log of a run folder, and with each call what was added since; it writes nothing and locks nothing."""

    def __init__(self, folder: Path) -> None:
        self.path = folder / LOG
        self.log = RunLog()
        self._offset, self._identity, self._last = 0, (0, 0), b""

    def read(self) -> bool:
        """Whether there was anything new. A log that was written anew, as by a resumed run, is read from its start.

        A last line that is cut short, or still being written, is none yet. Raises `DataError` where the file cannot be
        read or is no file.
        """
        if not os.path.lexists(self.path):
            return self._begin_anew() if self._offset else False
        if not self.path.is_file() or is_of_kernel(self.path):
            raise DataError(Problem("is no file", "take it away", path=str(self.path), code="HF002"))
        try:
            with self.path.open("rb") as file:
                return self._read_from(file)
        except OSError as problem:
            what = f"cannot be read ({problem.strerror})"
            raise DataError(Problem(what, "check its permissions", path=str(self.path), code="HF002")) from problem

    def _begin_anew(self) -> bool:
        self.log, self._offset, self._last = RunLog(), 0, b""
        return True

    def _read_from(self, file: BinaryIO) -> bool:
        found = os.fstat(file.fileno())
        if found.st_size > MAX_LOG_BYTES:
            what = f"has {found.st_size:,} bytes, more than {MAX_LOG_BYTES:,}"
            raise DataError(
                Problem(what, "raise train.logging_steps in the next run", path=str(self.path), code="HF954")
            )
        changed = self._was_replaced(file, found)
        if changed:
            self._begin_anew()
        if found.st_size - self._offset > LONG_LOG_BYTES:  # before the silence, and not behind it
            megabytes = found.st_size / 1e6
            logger.warning(
                "%s has %.0f MB: it takes some seconds to be read and drawn",
                self.path,
                megabytes,
                extra={"code": "HF955"},
            )
        self._identity = (found.st_dev, found.st_ino)
        file.seek(self._offset)
        before = self.log.lines
        for line, size in _split_lines(file):
            self.log.add(line, str(self.path))
            self._offset += size
            self._last = line
        return changed or self.log.lines > before

    def _was_replaced(self, file: BinaryIO, found: os.stat_result) -> bool:
        if not self._offset:
            return False
        if found.st_size < self._offset or self._identity != (found.st_dev, found.st_ino):
            return True
        file.seek(self._offset - len(self._last))  # a file system gives the number of a file that is gone to a new one
        return file.read(len(self._last)) != self._last


def read_log(folder: Path) -> RunLog:
    """The log of a run folder, as far as it was written; one without lines where there is none.

    Raises `DataError` as `LogReader.read` does.
    """
    reader = LogReader(folder)
    reader.read()
    return reader.log


def parse_entry(entry: Mapping[str, Any]) -> dict[str, float]:
    """The numbers of an entry of a log, NaN for those that are null, and its step as it stands."""
    found: dict[str, float] = {}
    for name, value in entry.items():
        if type(value) is float:  # nearly all of them: a log has millions
            found[name] = value
        elif (parsed := math.nan if value is None else parse_number(value)) is not None:
            found[name] = parsed
    found["step"] = entry["step"]
    return found


def is_point(entry: Mapping[str, Any]) -> bool:
    """Whether an entry is a point of a curve; the one that ends a log (train_loss, train_runtime) is none."""
    return any(name == "loss" or name.startswith("eval_") for name in entry)


def _split_lines(file: BinaryIO) -> Iterator[tuple[bytes, int]]:
    """(line, its bytes) of each whole line from here on; of one that is too long, an empty line."""
    while line := file.readline(MAX_LINE_BYTES):
        size, more = len(line), line
        while more and not more.endswith(b"\n"):
            more = file.readline(MAX_LINE_BYTES)
            size += len(more)
        if not more:
            return
        yield line if size == len(line) else b"", size
