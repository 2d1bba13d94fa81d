"""log.jsonl in the run folder: what a run logs, line by line as it happens, for whoever looks at it meanwhile or after.

{"log": 1, "max_steps": 300, "time": 1764435000.1}                    the first line
{"step": 10, "epoch": 0.1, "loss": 2.31, ..., "time": ...}            each entry of the Trainer's log_history
{"step": 100, "sample": {"prompt": "...", "continuation": "..."}}     each sample
{"step": 117, "ended": "OutOfMemoryError", "time": ...}               where an error or a signal has ended training
"""

from __future__ import annotations

import json
import logging
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, Protocol, runtime_checkable

from transformers import TrainerCallback, TrainerControl, TrainerState, TrainingArguments

from hf_finetune.files import encode_non_finite, write_atomically
from hf_finetune.folders import LOG_FORMAT, MAX_LOG_BYTES
from hf_finetune.folders.record_kinds import LARGEST_AMOUNT
from hf_finetune.privacy import redact

logger = logging.getLogger(__name__)

Line = dict[str, Any]
BEFORE_TIME, END = b', "time": ', b"}\n"
SUMMARY = "train_runtime"
"""A key of the entry with which training ends; samples of its step that a checkpoint keeps were taken before it."""


@runtime_checkable
class KeepsSamples(Protocol):
    """A callback that keeps the samples it has taken, oldest first."""

    def as_dicts(self) -> list[dict[str, Any]]: ...


class LogFile(TrainerCallback):
    """Write every entry of the log and every sample to `path`, on the main process, and hand each line to the system.

    A kill leaves whole lines, and at most one that was cut short. A run that goes on from a checkpoint has the lines
    up to it, whatever was written after it, so that the file is that of a run that was never ended, but for times.
    Where it cannot be written the run goes on, and the file is mended as soon as it can be.
    """

    def __init__(self, path: Path, samples: Callable[[], Sequence[dict[str, Any]]]) -> None:
        self.path = path
        self._samples = samples
        self._lines: list[bytes] = []
        """What is to be in the file, or is."""
        self._taken = (0, 0)
        """How many entries of the log and samples are among the lines."""
        self._earlier: list[bytes] = []
        self._size: int | None = None
        """Bytes of the file as it was left; None where it has to be written anew."""
        self._on = self._behind = self._warned = False

    def on_train_begin(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs: Any
    ) -> None:
        if not state.is_world_process_zero:
            return
        self._on, self._behind, self._size, self._taken = True, state.global_step > 0, None, (0, 0)
        self._earlier = _read_lines(self.path) if state.global_step else []
        first = {"log": LOG_FORMAT, "max_steps": state.max_steps}
        self._lines = [_encode(first | {"time": _read_time(self._earlier)})]
        if not self._behind:
            self._add(state)

    def on_step_begin(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs: Any
    ) -> None:
        if self._behind:  # the callbacks of a resumed run get their samples back after `on_train_begin`
            self._add(state)

    def on_log(self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs: Any) -> None:
        self._add(state, samples=self._behind)

    def on_evaluate(self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs: Any) -> None:
        self._add(state)

    def on_train_end(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs: Any
    ) -> None:
        self._add(state)

    def end(self, state: TrainerState, raised: BaseException) -> None:
        """Say that training was ended, by an error or a signal; of its message nothing, which may quote a row."""
        self._add(state, [{"step": state.global_step, "ended": type(raised).__name__}])

    def _add(self, state: TrainerState, more: Sequence[Line] = (), *, samples: bool = True) -> None:
        """Write what is new in the log and, unless none can have come, among the samples; then `more`."""
        if not self._on:  # not before training: what is logged then is in no log_history
            return
        self._behind = False
        entries, (known, shown) = state.log_history, self._taken
        taken = self._samples()[shown:] if samples else []
        new = [*map(_order, entries[known:]), *map(_describe_sample, taken)]
        # Those of a resumed run come at once, and are to stand as they once came.
        new = [*sorted(new, key=lambda line: (line["step"], SUMMARY in line, "sample" in line)), *more]
        self._taken = (len(entries), shown + len(taken))
        if new or self._size is None:
            timed = [self._put_time(line, len(self._lines) + number) for number, line in enumerate(new)]
            self._lines += timed
            self._write(timed)
        self._earlier = []

    def _put_time(self, line: Line, number: int) -> bytes:
        """The line with the time of now; one that an earlier run had written there, as it stands, with that of then."""
        written = _encode(line)[: -len(END)] + BEFORE_TIME
        earlier = self._earlier[number] if number < len(self._earlier) else b""
        # Compared as they are written: a log of 300,000 lines would take seconds to be read.
        if earlier.startswith(written) and _is_time(earlier[len(written) :]):
            return earlier
        return written + json.dumps(_now()).encode() + END

    def _write(self, new: Sequence[bytes]) -> None:
        try:
            if self._size is None or self.path.stat().st_size != self._size:
                self.path.parent.mkdir(parents=True, exist_ok=True)
                content = b"".join(self._lines)
                write_atomically(self.path, content, private=True)
                self._size = len(content)
            elif content := b"".join(new):
                with self.path.open("ab") as file:  # not kept open: over NFS others see what was closed
                    file.write(content)
                self._size += len(content)
        except OSError as problem:
            self._size = None
            if not self._warned:
                self._warned = True
                what = "%s cannot be written (%s): the run goes on, and the file is mended when it can be"
                logger.warning(what, self.path, problem.strerror or problem, extra={"code": "HF718"})


def _now() -> float:
    return round(time.time(), 3)


def _order(entry: Line) -> Line:
    """An entry with its step first: a checkpoint's has its keys by the alphabet, one that was just logged has not."""
    return {"step": entry["step"], **{key: entry[key] for key in sorted(entry) if key not in ("step", "time")}}


def _describe_sample(sample: dict[str, Any]) -> Line:
    return {"step": sample["step"], "sample": redact({key: sample[key] for key in sample if key != "step"})}


def _encode(line: Line) -> bytes:
    # JSON has no NaN: null, as in report.json. What is no number and no text is shown rather than raised.
    return (json.dumps(encode_non_finite(line), allow_nan=False, default=str) + "\n").encode()


def _read_lines(path: Path) -> list[bytes]:
    """The whole lines of an earlier run's file, with their ends."""
    try:
        # No more than any log has: it may be anybody's, and of a larger one no time is worth the memory.
        content = path.read_bytes() if path.is_file() and path.stat().st_size <= MAX_LOG_BYTES else b""
    except OSError:
        return []
    return [line + b"\n" for line in content.split(b"\n")[:-1]]


def _read_time(lines: Sequence[bytes]) -> float:
    """When a run began, by the first line of its log; now, where none says so."""
    try:
        then = float(json.loads(lines[0])["time"])
    except (IndexError, ValueError, RecursionError, KeyError, TypeError, OverflowError):
        return _now()
    return then if 0 <= then <= LARGEST_AMOUNT else _now()


def _is_time(ending: bytes) -> bool:
    return ending.endswith(END) and ending[: -len(END)].replace(b".", b"", 1).isdigit()
