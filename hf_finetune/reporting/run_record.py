"""Read what a run left behind: ours, finished or crashed, and the folder or checkpoint of any other Trainer."""

from __future__ import annotations

import json
import math
import re
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import yaml

from hf_finetune.errors import ConfigError, DataError, Problem
from hf_finetune.folders import MANIFEST
from hf_finetune.metric_info import best_metric, figure
from hf_finetune.reporting.files import REPORT, RUN_FILE

TRAINER_STATE = "trainer_state.json"
CONFIG = "config.json"
CHECKPOINT = re.compile(r"checkpoint-(\d+)")

# JSON has no NaN: report.json says these in words.
NON_FINITE = {"nan": math.nan, "inf": math.inf, "-inf": -math.inf}

# The parts of report.json that readers rely on, each absent where it was not computed.
REPORT_PARTS: dict[str, type] = {
    "settings": dict,
    "data": dict,
    "parameters": dict,
    "train": dict,
    "evaluation": dict,
    "samples": list,
    "distributed": dict,
    "environment": dict,
}

Figures = dict[str, Any]


@dataclass(frozen=True)
class RunRecord:
    """One run, as far as it got. Dictionaries are empty where their file is not there."""

    folder: Path
    name: str
    """Of the folder alone: never an absolute path."""
    status: Literal["done", "stopped", "foreign"]
    """`stopped` is a run of ours without report.json; `foreign` a Trainer's that is not ours, or one checkpoint."""
    report: Figures
    """report.json as it stands, where figures that are not finite are the strings "nan", "inf" and "-inf"."""
    manifest: Figures
    settings: Figures
    """Sections of the run file."""
    model: Figures
    """config.json of the folder, or of its newest checkpoint."""
    history: list[dict[str, float]]
    """Entries of the Trainer's log in its order: numbers only, non-finite ones as such, `step` an int in each."""
    max_steps: int | None
    """Optimizer steps that were asked for, where that is known."""
    step: int
    """Optimizer steps that were made, as far as anything on disk tells."""
    best_step: int | None
    """Of the best checkpoint; without one, of the evaluation that was best by the run's metric, or else by the loss."""
    best_checkpoint: str | None
    """Its folder's name, where the run kept one by its validation."""


def read_run(folder: str | Path) -> RunRecord:
    """Read a run folder, a checkpoint folder, or the folder of a trainer_state.json named itself.

    A run without report.json is read from the newest state on disk. Raises `ConfigError` where there is nothing of a
    run, and `DataError` where a file of it is torn or not what it should be. Nothing is unpickled.
    """
    path = Path(folder)
    if path.name == TRAINER_STATE and path.is_file():
        path = path.parent
    if not path.is_dir():
        raise ConfigError(Problem("is no folder", "name a run folder or a checkpoint", path=str(folder)))
    report, manifest, settings, state = _report(path), _json(path / MANIFEST), _run_file(path), _newest_state(path)
    if not (report or manifest or state):
        remedy = f"name a folder with {REPORT}, {MANIFEST}, {TRAINER_STATE} or checkpoint-N in it"
        raise ConfigError(Problem("holds nothing of a run", remedy, path=str(folder)))
    train = report.get("train", {})
    history = _history(train, "history", path / REPORT) if "history" in train else state.get("log_history", [])
    best = _folder_name(train.get("best_checkpoint") if report else state.get("best_model_checkpoint"))
    settings = report.get("settings") or settings
    return RunRecord(
        folder=path,
        name=path.resolve().name,
        status="done" if report else "stopped" if manifest else "foreign",
        report=report,
        manifest=manifest,
        settings=settings,
        model=_model_config(path),
        history=history,
        max_steps=_max_steps(train, settings, state),
        step=_last_step(train, state, history),
        best_step=_best_step(best, history, best_metric(_train(settings)) or "loss"),
        best_checkpoint=best,
    )


def kept_by(run: RunRecord) -> str | None:
    """The metric by which the saved weights are those of `best_checkpoint`; None where they are the last ones."""
    train = _train(run.settings)
    # A run that stopped has saved its checkpoints alone.
    kept = run.status != "stopped" and run.best_checkpoint is not None and train.get("load_best_model_at_end")
    return best_metric(train) if kept else None


def curve(run: RunRecord, figure: str) -> list[tuple[int, float]]:
    """(step, value) of each entry of the history that has `figure`, by step; of two at one step the last holds."""
    values = {int(entry["step"]): entry[figure] for entry in run.history if figure in entry}
    return sorted(values.items())


def _report(folder: Path) -> Figures:
    report = _json(folder / REPORT)
    wrong = [key for key, kind in REPORT_PARTS.items() if not isinstance(report.get(key, kind()), kind)]
    if wrong:
        raise DataError([_not_ours(folder / REPORT, f"{key} is no {_word(REPORT_PARTS[key])}") for key in wrong])
    return report


def _run_file(folder: Path) -> Figures:
    path = folder / RUN_FILE
    if not path.is_file():
        return {}
    try:
        settings = yaml.safe_load(_text(path))
    except (yaml.YAMLError, ValueError, RecursionError) as problem:
        raise DataError(_not_ours(path, "is torn, or no YAML")) from problem
    if not isinstance(settings, dict):
        raise DataError(_not_ours(path, "does not hold the sections of a run file"))
    return {key: value for key, value in settings.items() if isinstance(key, str)}


def _newest_state(folder: Path) -> Figures:
    """The Trainer's state with the most steps; {} where there is none. Its history is checked."""
    # A checkpoint that was killed while it was written has no state yet: the Trainer writes that last but one.
    states = [
        _state(path) for path in (folder / TRAINER_STATE, *_in_checkpoints(folder, TRAINER_STATE)) if path.is_file()
    ]
    return max(states, key=lambda state: state["global_step"], default={})


def _model_config(folder: Path) -> Figures:
    held = [path for path in (folder / CONFIG, *_in_checkpoints(folder, CONFIG)) if path.is_file()]
    return _json(held[0]) if held else {}


def _in_checkpoints(folder: Path, name: str) -> list[Path]:
    """The file of this name in the newest checkpoint that has it."""
    numbered = [(int(match[1]), path) for path in folder.iterdir() if (match := CHECKPOINT.fullmatch(path.name))]
    return [path / name for _, path in sorted(numbered) if (path / name).is_file()][-1:]


def _state(path: Path) -> Figures:
    state = _json(path)
    step = state.get("global_step")
    if not isinstance(step, int) or "log_history" not in state:
        raise DataError(_not_ours(path, "is no state of a Trainer: global_step or log_history is missing"))
    return state | {"log_history": _history(state, "log_history", path)}


def _history(holder: Figures, key: str, path: Path) -> list[dict[str, float]]:
    entries = holder[key]
    if not isinstance(entries, list) or not all(isinstance(entry, dict) for entry in entries):
        raise DataError(_not_ours(path, f"{key} is no list of log entries"))
    without = [number for number, entry in enumerate(entries, start=1) if not _is_step(entry.get("step"))]
    if without:
        raise DataError(_not_ours(path, f"entry {without[0]} of {key} has no step"))
    found = [
        {name: figure for name, value in entry.items() if (figure := _number(value)) is not None} for entry in entries
    ]
    return [entry for entry in found if any(name == "loss" or name.startswith("eval_") for name in entry)]


def _is_step(value: Any) -> bool:
    return isinstance(value, int) and not isinstance(value, bool) and value >= 0


def _number(value: Any) -> float | None:
    if isinstance(value, str):
        return NON_FINITE.get(value.lower())
    return value if isinstance(value, int | float) and not isinstance(value, bool) else None


def _train(settings: Figures) -> Figures:
    train = settings.get("train")
    return train if isinstance(train, dict) else {}


def _max_steps(train: Figures, settings: Figures, state: Figures) -> int | None:
    found = (train.get("max_steps"), _train(settings).get("max_steps"), state.get("max_steps"))
    return next((steps for steps in found if isinstance(steps, int) and steps > 0), None)


def _last_step(train: Figures, state: Figures, history: list[dict[str, float]]) -> int:
    known = [train.get("steps"), state.get("global_step"), *(entry["step"] for entry in history)]
    return max((int(step) for step in known if isinstance(step, int)), default=0)


def _best_step(checkpoint: str | None, history: list[dict[str, float]], metric: str) -> int | None:
    match = CHECKPOINT.fullmatch(checkpoint or "")
    if match:
        return int(match[1])
    sign = -1 if figure(metric).better == "higher" else 1
    name = f"eval_{metric}"
    found = [(sign * entry[name], int(entry["step"])) for entry in history if math.isfinite(entry.get(name, math.nan))]
    return min(found)[1] if found else None


def _folder_name(path: Any) -> str | None:
    """The last part of a path that may come from another machine, with either kind of slash."""
    return re.split(r"[\\/]", path.rstrip("\\/"))[-1] if isinstance(path, str) else None


def _json(path: Path) -> Figures:
    if not path.is_file():
        return {}
    try:
        value = json.loads(_text(path))
    except (ValueError, RecursionError) as problem:
        raise DataError(_not_ours(path, "is torn, or no JSON")) from problem
    if not isinstance(value, dict) or not value:
        raise DataError(_not_ours(path, "does not hold an object with figures"))
    return value


def _text(path: Path) -> str:
    try:
        return path.read_text(encoding="utf-8")
    except OSError as problem:
        raise DataError(Problem(f"cannot be read ({problem.strerror})", path=str(path))) from problem


def _word(kind: type) -> str:
    return "list" if kind is list else "object"


def _not_ours(path: Path, what: str) -> Problem:
    """A state is one of several, so that removing it lets the one before speak; the other files are one of a kind."""
    if path.name == TRAINER_STATE:
        return Problem(what, "remove it, and the newest state before it is read", path=str(path))
    return Problem(
        what, f"put it back as the run wrote it, or remove it and read the run from its {TRAINER_STATE}", path=str(path)
    )
