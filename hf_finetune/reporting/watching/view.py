"""What there is to see of a run at one moment."""

from __future__ import annotations

import math
import os
import shutil
import time
from contextlib import suppress
from dataclasses import dataclass, field, replace
from itertools import pairwise
from pathlib import Path
from statistics import median
from typing import Any

from hf_finetune.errors import ConfigError, FinetuneError, format_problems
from hf_finetune.folders import LOCK, NOBODYS, list_checkpoints
from hf_finetune.folders.lock import read_owner
from hf_finetune.reporting.diagnosis import Diagnosis, diagnose
from hf_finetune.reporting.liveness import seems_alive
from hf_finetune.reporting.resuming import describe_going_on
from hf_finetune.reporting.run_log import LogReader, RunLog
from hf_finetune.reporting.run_record import RunRecord, get_curve, read_run

SECONDS_BETWEEN_DIAGNOSES = 30.0
SECONDS_BETWEEN_LOOKS = 5.0
"""Without a new line of the log; whether the run has ended is seen so soon."""
ENDED_AT_ONCE = "Its process ended before it wrote anything: the command that began it begins it again."
LINES_TIMED = 20
"""Lines of the log by which the rate is told."""
MANY_TIMES = 20
FAILURES_BORNE = 3


@dataclass(frozen=True)
class RunView:
    """A run as it is now. What is not known is None."""

    name: str
    state: str
    """waiting, running, stopped, done, or foreign: another Trainer's."""
    step: int = 0
    max_steps: int | None = None
    ended: str | None = None
    """What has ended training early, in words."""
    trained: bool = False
    """Training has come to its end; an unfinished run is measured now."""
    last: dict[str, float] = field(default_factory=dict)
    """The last training entry of the log."""
    losses: tuple[tuple[int, float], ...] = ()
    evaluation: dict[str, float] = field(default_factory=dict)
    """The last evaluation."""
    best_step: int | None = None
    sample: dict[str, Any] | None = None
    steps_per_s: float | None = None
    left_s: float | None = None
    written_s: float | None = None
    """Seconds since the last line of the log."""
    checkpoint: str | None = None
    free_bytes: int | None = None
    verdict: str = ""
    findings: tuple[tuple[str, str], ...] = ()
    """(level, title), the worst first."""
    next_command: str = ""
    """What goes on with a run that has stopped."""
    problems: tuple[str, ...] = ()
    """What is wrong with lines of the log."""

    @property
    def going(self) -> bool:
        """Whether there is more to come."""
        return self.state in ("waiting", "running")

    def as_dict(self) -> dict[str, Any]:
        """All of it but the curve, for JSON."""
        return {key: value for key, value in vars(self).items() if key != "losses"}


class RunWatcher:
    """Looks at a run folder again and again, and reads of its log only what was added."""

    def __init__(self, folder: str) -> None:
        self.folder = Path(folder)
        self._reader = LogReader(self.folder)
        self._diagnosis: Diagnosis | None = None
        self._diagnosed = (-math.inf, "")
        self._view: RunView | None = None
        self._looked = -math.inf
        self._failures = 0

    @property
    def log(self) -> RunLog:
        return self._reader.log

    def look(self) -> RunView:
        """Raises as `read_run` does, but a folder in which a run has written nothing yet is waited for."""
        try:
            return self._look()
        except FinetuneError:
            # A checkpoint may be removed while it is read; what is wrong for longer is said.
            self._failures += 1
            if self._view is None or self._failures > FAILURES_BORNE:
                raise
            return self._view

    def _look(self) -> RunView:
        new = self._reader.read()
        now = time.monotonic()
        if self._view is not None and not new and now - self._looked < SECONDS_BETWEEN_LOOKS:
            return replace(self._view, written_s=_find_age(self.log))
        self._view, self._looked, self._failures = self._describe(), now, 0
        return self._view

    def _describe(self) -> RunView:
        try:
            run = read_run(self.folder, log=self.log)
        except ConfigError:
            if not is_waited_for(self.folder):
                raise
            if read_owner(self.folder / LOCK) is None:
                return RunView(self.folder.resolve().name, "waiting")
            # Its process has the folder, and nothing to write before libraries and rows are read.
            if seems_alive(self.folder, self.log):
                return RunView(self.folder.resolve().name, "waiting", verdict="A process has begun it.")
            return RunView(self.folder.resolve().name, "stopped", verdict=ENDED_AT_ONCE)
        return _describe(run, self.log, self._diagnose(run))

    def _diagnose(self, run: RunRecord) -> Diagnosis:
        """Diagnosed now and then: it takes longer than all else."""
        then, status = self._diagnosed
        now = time.monotonic()
        if self._diagnosis is None or run.status != status or now - then >= SECONDS_BETWEEN_DIAGNOSES:
            self._diagnosis, self._diagnosed = diagnose(run), (now, run.status)
        return self._diagnosis


def is_waited_for(folder: Path) -> bool:
    """Whether a folder holds no more than that of a run does which has just begun."""
    return os.path.isdir(folder) and all(NOBODYS.fullmatch(name) for name in os.listdir(folder))


def _describe(run: RunRecord, log: RunLog, diagnosis: Diagnosis) -> RunView:
    evaluations = [entry for entry in run.history if any(name.startswith("eval_") for name in entry)]
    trained = [entry for entry in run.history if "loss" in entry]
    rate = _find_rate(log) if run.status == "running" else None
    left = run.max_steps - run.step if run.max_steps else None
    checkpoints = list_checkpoints(run.folder)
    free = None
    with suppress(OSError):
        free = shutil.disk_usage(run.folder).free
    return RunView(
        name=run.name,
        state=run.status,
        step=run.step,
        max_steps=run.max_steps,
        ended=run.ended_by,
        trained=bool(log.summary) or run.status == "done",
        last=trained[-1] if trained else {},
        losses=tuple(get_curve(run, "loss")),
        evaluation=evaluations[-1] if evaluations else {},
        best_step=run.best_step,
        sample={"step": log.samples[-1][0], **log.samples[-1][1]} if log.samples else _last_sample(run),
        steps_per_s=rate,
        left_s=left / rate if rate and left is not None else None,
        written_s=_find_age(log),
        checkpoint=checkpoints[-1].name if checkpoints else None,
        free_bytes=free,
        verdict=diagnosis.verdict,
        next_command=describe_going_on(run),
        findings=tuple((finding.level, finding.title) for finding in diagnosis.findings),
        problems=tuple(format_problems(log.problems)),
    )


def _last_sample(run: RunRecord) -> dict[str, Any] | None:
    found = [each for each in run.report.get("samples", []) if isinstance(each, dict) and "continuation" in each]
    return found[-1] if found else None


def _find_rate(log: RunLog) -> float | None:
    """Steps in a second by the last lines, evaluations between them included; None where that is not known."""
    timed = zip(log.history[-4 * LINES_TIMED :], log.times[-4 * LINES_TIMED :], strict=True)
    known = [(int(entry["step"]), at) for entry, at in timed if "loss" in entry and math.isfinite(at)][-LINES_TIMED:]
    pairs = [(after[0] - before[0], after[1] - before[1]) for before, after in pairwise(known)]
    taken = [(steps, seconds) for steps, seconds in pairs if steps > 0 and seconds >= 0]
    if not taken:
        return None
    # A run that was resumed has a gap of hours, in which no step was taken.
    usual = MANY_TIMES * median(seconds / steps for steps, seconds in taken)
    steps, seconds = map(sum, zip(*[pair for pair in taken if pair[1] / pair[0] <= usual], strict=True))
    return steps / seconds if seconds > 0 else None


def _find_age(log: RunLog) -> float | None:
    """Seconds since the last line of the log; None where that is not known."""
    at = next((at for at in reversed(log.times) if math.isfinite(at)), None)
    return None if at is None else max(0.0, time.time() - at)
