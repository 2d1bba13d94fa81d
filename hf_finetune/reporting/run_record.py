"""Read a run from disk: one of ours, finished or crashed, or the output folder or a checkpoint of any Trainer."""

from __future__ import annotations

import logging
import math
import os
import re
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from functools import lru_cache
from pathlib import Path
from typing import Any, Literal

from hf_finetune.errors import ConfigError, DataError, Problem, format_problems
from hf_finetune.files import read_bounded_yaml
from hf_finetune.folders import (
    CHECKPOINT,
    LOG,
    MANIFEST,
    NON_FINITE,
    REPORT,
    RUN_FILE,
    TRAINER_STATE,
    list_checkpoints,
    suggest_path,
)
from hf_finetune.folders.record_kinds import MANIFEST_KINDS, REPORT_KINDS, find_wrong_kinds, is_amount, parse_record
from hf_finetune.metric_info import METRICS, get_best_metric, get_metric_info, parse_number
from hf_finetune.privacy import redact
from hf_finetune.reporting.liveness import goes_beyond, seems_alive
from hf_finetune.reporting.run_log import RunLog, is_point, parse_entry, read_log

logger = logging.getLogger(__name__)

CONFIG = "config.json"

# Of the entry with which a Trainer ends its log.
SUMMARY = ("train_runtime", "train_samples_per_second", "epoch")

NON_FINITE_ERROR = "NonFiniteError"
ENDINGS = {
    "Terminated": "SIGTERM",
    "KeyboardInterrupt": "Ctrl-C",
    "OutOfMemory": "memory that ran out",
    "OutOfMemoryError": "memory that ran out",
    "CannotWriteError": "a folder that cannot be written",
    "EvaluationStopped": "a signal",
}
"""By the names in the log (`training.callbacks.log_file`); others are shown as they are."""

JsonObject = dict[str, Any]


@dataclass(frozen=True)
class RunRecord:
    """One run, as far as it got. Dictionaries are empty where their file is missing, and all are redacted."""

    folder: Path
    name: str
    """Name of the folder, never a path."""
    status: Literal["done", "running", "stopped", "foreign"]
    """`running`, `stopped`: a run of ours without report.json, that seems to be at work, or not. `foreign`: another
    Trainer's run, or a single checkpoint."""
    report: JsonObject
    """report.json, with NaN for metrics that are null there; older ones have the strings "nan", "inf" and "-inf"."""
    manifest: JsonObject
    """In which the command is None where it is none of ours."""
    settings: JsonObject
    """Sections of the run file."""
    model: JsonObject
    """config.json of the folder, or of its newest checkpoint."""
    history: list[dict[str, float]]
    """The Trainer's `log_history`, numbers only (non-finite ones as floats); `step` is an int in each entry."""
    max_steps: int | None
    """Planned optimizer steps, if known."""
    step: int
    """Optimizer steps taken, by the largest step in any file."""
    best_step: int | None
    """Step of the best checkpoint; without one, of the best evaluation by the run's metric (default: loss)."""
    best_checkpoint: str | None
    """Folder name of the best checkpoint, if the run selected one."""
    train_rows: int | None = None
    """Rows that an epoch has at most, by the summary at the end of the log: under `max_steps` a Trainer counts whole
    batches, so that 9 rows in batches of 8 are 16."""
    model_path: str | None = None
    """`model.path` of run.yaml as it was typed, to be opened and never shown."""
    ended: str | None = None
    """What has ended the training of an unfinished run, by its name, if that could still be said."""
    curves: dict[str, list[tuple[int, float]]] = field(default_factory=dict, init=False, repr=False, compare=False)
    """What `get_curve` has made of `history`, which pages and findings ask for dozens of times."""

    @property
    def ended_by(self) -> str | None:
        """What has ended training early, in words."""
        if self.ended == NON_FINITE_ERROR:
            recorded = (self.folder / NON_FINITE).is_file()
            return "a value that is not finite" if recorded else "a loss that exploded, or gradients that overflow"
        return None if self.ended is None else ENDINGS.get(self.ended, self.ended)

    @property
    def unfinished(self) -> bool:
        """Whether it is a run of ours that has not come to its end, yet or at all."""
        return self.status in ("running", "stopped")


def read_run(folder: str | Path, *, report: JsonObject | None = None, log: RunLog | None = None) -> RunRecord:
    """Read a run folder or a checkpoint folder; the path of a log.jsonl or trainer_state.json stands for its folder.

    `report` is read in place of report.json, and `log` is its log where that was read before. A run without a report is
    read from its log, or the newest trainer state. Raises `ConfigError` if the folder holds no run, and `DataError` if
    one of its files is truncated or malformed; lines of the log that are damaged are named in a warning. Nothing is
    unpickled.
    """
    path = Path(folder)
    if path.name in (TRAINER_STATE, LOG) and os.path.isfile(path):
        path = path.parent
    if not os.path.isdir(path):  # pathlib raises for a name that is too long
        remedy = "name a run folder or a checkpoint"
        remedy = remedy if os.path.exists(path) else suggest_path(str(folder), remedy)
        raise ConfigError(Problem("is no folder", remedy, path=str(folder), code="HF951"))
    log = _read_log(path) if log is None else log
    report = _read_report(path) if report is None else report
    manifest = _read_record(path / MANIFEST, MANIFEST_KINDS)
    typed, state = _read_run_file(path), _read_newest_state(path, log)
    if not (report or manifest or state or log.lines):
        remedy = f"name a folder with {REPORT}, {MANIFEST}, {LOG}, {TRAINER_STATE} or checkpoint-N in it"
        raise ConfigError(Problem("holds nothing of a run", remedy, path=str(folder), code="HF951"))
    report = {} if goes_beyond(log, report) else report
    train = report.get("train", {})
    logged = log.history if log.history else state.get("log_history", [])
    history = _parse_history(train, "history", path / REPORT) if "history" in train else logged
    best = _get_folder_name(train.get("best_checkpoint") if report else _read_best(path, state))
    settings = report.get("settings") or redact(typed)
    return RunRecord(
        folder=path,
        name=path.resolve().name,
        status=_find_status(path, report, manifest, log),
        report=report,
        manifest=manifest,
        settings=settings,
        model=_read_model_config(path),
        history=history,
        max_steps=_find_max_steps(train, log, settings, state),
        step=_find_last_step(train, state, history),
        best_step=_find_best_step(best, history, get_best_metric(_get_train_section(settings)) or "loss"),
        best_checkpoint=best,
        train_rows=_count_train_rows([log.summary]) if log.summary else state.get("train_rows"),
        model_path=_model_path(typed),
        ended=None if report else log.ended,
    )


def get_selection_metric(run: RunRecord) -> str | None:
    """The metric that selected the saved weights (`load_best_model_at_end`); None if they are the last."""
    train = _get_train_section(run.settings)
    # The best checkpoint is loaded at the end of training: a run that stopped has only its checkpoints.
    kept = not run.unfinished and run.best_checkpoint is not None and train.get("load_best_model_at_end")
    return get_best_metric(train) if kept else None


def get_curve(run: RunRecord, name: str) -> list[tuple[int, float]]:
    """(step, value) of each history entry that has `name`, sorted by step; the last entry of a step counts."""
    # A resumed run logs steps again: [{"step": 9, "loss": 2.0}, {"step": 9, "loss": 1.9}] -> [(9, 1.9)].
    if name not in run.curves:
        values = {int(entry["step"]): entry[name] for entry in run.history if name in entry}
        run.curves[name] = sorted(values.items())
    return list(run.curves[name])


def _read_report(folder: Path) -> JsonObject:
    report = _read_record(folder / REPORT, REPORT_KINDS)
    return report | {"evaluation": _restore_nan(report["evaluation"])} if "evaluation" in report else report


def _read_record(path: Path, kinds: Mapping[str, str]) -> JsonObject:
    record = _read_json(path)
    if wrong := list(find_wrong_kinds(record, kinds)):
        raise DataError([_make_file_problem(path, what) for what in wrong])
    return record


def _restore_nan(value: Any) -> Any:
    """`value` with NaN for each metric that is null: one that is not defined for its rows."""
    if isinstance(value, dict):
        return {key: math.nan if item is None and key in METRICS else _restore_nan(item) for key, item in value.items()}
    return [_restore_nan(item) for item in value] if isinstance(value, list) else value


def _read_run_file(folder: Path) -> JsonObject:
    path = folder / RUN_FILE
    if not path.is_file():
        return {}
    try:
        settings = read_bounded_yaml(_read_text(path))
    except ValueError as problem:
        raise DataError(_make_file_problem(path, "is torn, or no YAML")) from problem
    if not isinstance(settings, dict):
        raise DataError(_make_file_problem(path, "does not hold the sections of a run file"))
    return {key: value for key, value in settings.items() if isinstance(key, str)}


def _model_path(settings: JsonObject) -> str | None:
    model = settings.get("model")
    path = model.get("path") if isinstance(model, dict) else None
    return path if isinstance(path, str) else None


def _find_status(
    folder: Path, report: JsonObject, manifest: JsonObject, log: RunLog
) -> Literal["done", "running", "stopped", "foreign"]:
    if report:
        return "done"
    if not manifest:
        return "foreign"
    return "running" if seems_alive(folder, log) else "stopped"


def _read_log(folder: Path) -> RunLog:
    log = read_log(folder)
    for line in format_problems(replace(each, code="") for each in log.problems):
        logger.warning("%s", line, extra={"code": "HF953"})
    return log


def _read_newest_state(folder: Path, log: RunLog) -> JsonObject:
    """The trainer_state.json with the most steps, its history checked; {} where there is none.

    Where the log tells of the run, one that is torn is named and passed over.
    """
    if log.history:
        for path in _find_in_checkpoints(folder, TRAINER_STATE):
            found = path.stat()
            return dict(_read_plan(path, found.st_mtime_ns, found.st_size))
        return {}
    return _read_states(folder, (folder / TRAINER_STATE,))


@lru_cache(maxsize=8)
def _read_plan(path: Path, changed: int, size: int) -> JsonObject:
    """A trainer_state.json without its log, which may be long; {} of one that is torn, which is named."""
    try:
        state = parse_record(_read_text(path))
        state["log_history"] = []
        checked = redact(state)
    except (ValueError, RecursionError, TypeError):
        logger.warning(
            "%s: is torn, or no JSON: it is passed over, the log tells how far the run got",
            path,
            extra={"code": "HF953"},
        )
        return {}
    return checked if isinstance(checked.get("global_step"), int) else {}


def _read_states(folder: Path, first: tuple[Path, ...]) -> JsonObject:
    # A checkpoint is not written atomically: weights first, this file near the end, so that one that was killed has
    # no state. Can go when transformers (5.23 does not) renames whole checkpoints into place:
    # https://github.com/huggingface/transformers/pull/27820
    states = [_read_state(path) for path in (*first, *_find_in_checkpoints(folder, TRAINER_STATE)) if path.is_file()]
    return max(states, key=lambda state: state["global_step"], default={})


def _read_model_config(folder: Path) -> JsonObject:
    held = [path for path in (folder / CONFIG, *_find_in_checkpoints(folder, CONFIG)) if path.is_file()]
    return _read_json(held[0]) if held else {}


def _find_in_checkpoints(folder: Path, name: str) -> list[Path]:
    """[path] of this file in the newest checkpoint that has it, else []."""
    return [path / name for path in list_checkpoints(folder, complete=False) if (path / name).is_file()][-1:]


def _read_state(path: Path) -> JsonObject:
    state = _read_json(path)
    step = state.get("global_step")
    if not isinstance(step, int) or "log_history" not in state:
        raise DataError(_make_file_problem(path, "is no state of a Trainer: global_step or log_history is missing"))
    history = _parse_history(state, "log_history", path)
    return state | {"log_history": history, "train_rows": _count_train_rows(state["log_history"])}


def _parse_history(holder: JsonObject, key: str, path: Path) -> list[dict[str, float]]:
    entries = holder[key]
    if not isinstance(entries, list) or not all(isinstance(entry, dict) for entry in entries):
        raise DataError(_make_file_problem(path, f"{key} is no list of log entries"))
    without = [index for index, entry in enumerate(entries, start=1) if not is_amount(entry.get("step"))]
    if without:
        raise DataError(_make_file_problem(path, f"entry {without[0]} of {key} has no step"))
    return [entry for entry in map(parse_entry, entries) if is_point(entry)]


def _count_train_rows(entries: list[dict[str, Any]]) -> int | None:
    """The most rows that an epoch can have, by the summary that ends a Trainer's log; None without one."""
    # {"train_runtime": 2.0, "train_samples_per_second": 80.0, "epoch": 4.0}: 160 rows were taken, 40 in each epoch.
    summary: dict[str, Any] = next((entry for entry in reversed(entries) if "train_runtime" in entry), {})
    values = [parse_number(summary.get(name)) for name in SUMMARY]
    runtime, speed, epochs = (value if value is not None and math.isfinite(value) else 0.0 for value in values)
    return round(runtime * speed / epochs) if epochs > 0 and runtime * speed > 0 else None


def _get_train_section(settings: JsonObject) -> JsonObject:
    train = settings.get("train")
    return train if isinstance(train, dict) else {}


def _find_max_steps(train: JsonObject, log: RunLog, settings: JsonObject, state: JsonObject) -> int | None:
    planned = _get_train_section(settings).get("max_steps")
    found = (train.get("max_steps"), log.max_steps, planned, state.get("max_steps"))
    return next((steps for steps in found if isinstance(steps, int) and steps > 0), None)


def _find_last_step(train: JsonObject, state: JsonObject, history: list[dict[str, float]]) -> int:
    known = [train.get("steps"), state.get("global_step"), *(entry["step"] for entry in history)]
    return max((int(step) for step in known if isinstance(step, int)), default=0)


def _find_best_step(checkpoint: str | None, history: list[dict[str, float]], metric: str) -> int | None:
    match = CHECKPOINT.fullmatch(checkpoint or "")
    if match:
        return int(match[1])
    # Of two equally good evaluations the earlier one, as the Trainer keeps the checkpoint until a better one comes.
    sign = -1 if get_metric_info(metric).better == "higher" else 1
    name = f"eval_{metric}"
    found = [(sign * entry[name], int(entry["step"])) for entry in history if math.isfinite(entry.get(name, math.nan))]
    return min(found)[1] if found else None


def _read_best(folder: Path, state: JsonObject) -> Any:
    """The best checkpoint by a trainer state: its path in another Trainer's, in ours its step where it was saved."""
    named = f"checkpoint-{state.get('best_global_step')}"
    return state.get("best_model_checkpoint") or (named if (folder / named).is_dir() else None)


def _get_folder_name(path: Any) -> str | None:
    """Last part of a path that may come from another machine or system."""
    # best_model_checkpoint is a path of the machine that trained, which a moved run folder does not have:
    # https://github.com/huggingface/transformers/issues/48315. "C:\\runs\\checkpoint-80\\" -> "checkpoint-80".
    return re.split(r"[\\/]", path.rstrip("\\/"))[-1] if isinstance(path, str) else None


def _read_json(path: Path) -> JsonObject:
    """The object in a file, redacted: that of an older run, or of another tool, may have paths and secrets in it."""
    if not path.is_file():
        return {}
    try:
        value = redact(parse_record(_read_text(path)))
    except (ValueError, RecursionError) as problem:
        raise DataError(_make_file_problem(path, "is torn, or no JSON")) from problem
    if not isinstance(value, dict) or not value:
        raise DataError(_make_file_problem(path, "does not hold an object with values"))
    return value


def _read_text(path: Path) -> str:
    try:
        return path.read_text(encoding="utf-8")
    except OSError as problem:
        what = f"cannot be read ({problem.strerror})"
        raise DataError(Problem(what, "check its permissions", str(path), code="HF002")) from problem


def _make_file_problem(path: Path, what: str) -> Problem:
    """A problem with its remedy: a trainer state may be removed, for the run is then read from the state before it."""
    if path.name == TRAINER_STATE:
        return Problem(what, "remove it, and the newest state before it is read", path=str(path), code="HF952")
    return Problem(
        what,
        "put it back as the run wrote it, or remove it: the run is then read from its log",
        path=str(path),
        code="HF952",
    )
