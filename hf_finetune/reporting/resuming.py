"""A run that is typed again: finished, or gone on with from a checkpoint; looked at before anything is written."""

from __future__ import annotations

import json
import logging
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from hf_finetune.checkpoints import find_faults, find_verified, list_sealed
from hf_finetune.errors import ConfigError, Problem, RunFinished, suggest
from hf_finetune.folders import (
    MANIFEST,
    REPORT,
    RESUME,
    TRAINER_STATE,
    describe_finished,
    list_checkpoints,
    read_finished,
)
from hf_finetune.shell import shell_line

logger = logging.getLogger(__name__)

BEGIN = "leave train.resume_from_checkpoint out to begin the run"
WEIGHTS = ("model.safetensors", "model.safetensors.index.json", "adapter_model.safetensors")
DEFAULT_EPOCHS = 3.0
"""`TrainingArguments.num_train_epochs`."""


def find_resumed(output_dir: str, train: Mapping[str, Any]) -> str | None:
    """The checkpoint that a run with this section `train` goes on from; None where it begins at its first step.

    Raises `RunFinished` where the run has come to its end and no more is asked for, and `ConfigError` where it has
    nothing to go on from. Writes nothing.
    """
    resume, folder = train.get("resume_from_checkpoint"), Path(output_dir)
    if not resume:
        return None
    report = read_finished(folder)
    if report is not None and not _asks_for_more(report, train):
        raise RunFinished(Problem(*describe_finished(output_dir, report)))
    return _find_named(output_dir, resume) if isinstance(resume, str) else _find_newest(output_dir)


def read_threads(output_dir: str) -> int | None:
    """How many threads a process of the run began with, by its manifest; None where that does not say."""
    threads = _read_manifest(output_dir, "threads")
    return threads if isinstance(threads, int) and threads > 0 else None


def read_template_date(output_dir: str) -> str | None:
    """The day that the chat template of the run was told, by its manifest; None where that does not say."""
    date = _read_manifest(output_dir, "template_date")
    return date if isinstance(date, str) else None


def _read_manifest(output_dir: str, key: str) -> Any:
    try:
        return json.loads(Path(output_dir, MANIFEST).read_text(encoding="utf-8"))[key]
    except (OSError, ValueError, KeyError, TypeError, RecursionError):
        return None


def describe_kept(output_dir: str, command: Sequence[str]) -> str:
    """What is kept of a run that is stopped, and how to go on; `command` is what was typed."""
    folder, words = Path(output_dir), [word for word in command if not word.startswith(f"{RESUME}=")]
    # By their times: a finished run that is trained on has a report from its first end, older than its new manifest.
    if _is_newer(folder / REPORT, folder / MANIFEST):
        return f"the run is complete, its report is {folder / 'report.html'}"
    if whole := list_checkpoints(folder):
        state = json.loads((whole[-1] / TRAINER_STATE).read_text(encoding="utf-8"))
        kept = f"{whole[-1]} is kept, step {state['global_step']} of {state['max_steps']}"
        return f"{kept}; go on with: {shell_line([*words, f'{RESUME}=true'])}"
    kept = "nothing is kept, no checkpoint had been saved (train.save_strategy, train.save_steps)"
    if any(_is_newer(folder / weights, folder / MANIFEST) for weights in WEIGHTS):
        kept = f"{output_dir} keeps the trained model, which was not measured yet"
    return f"{kept}; begin again with: {shell_line(words)}"


def _is_newer(file: Path, than: Path) -> bool:
    return file.is_file() and than.is_file() and file.stat().st_mtime_ns >= than.stat().st_mtime_ns


def _asks_for_more(report: Mapping[str, Any], train: Mapping[str, Any]) -> bool:
    """Whether more steps are asked for than the run was to take.

    Epochs after a run that counted steps may be more: only the Trainer can tell, which then ends at once or goes on.
    """
    given = report.get("settings", {}).get("train", {})
    (steps, epochs), (had_steps, had_epochs) = _read_plan(train), _read_plan(given)
    if steps is not None:
        planned = report.get("train", {}).get("max_steps")
        return steps > (planned if isinstance(planned, int) else had_steps or 0)
    return had_steps is not None or epochs > had_epochs


def _read_plan(train: Mapping[str, Any]) -> tuple[int | None, float]:
    """The steps that a section `train` asks for, None where it asks for epochs; and the epochs."""
    steps, epochs = train.get("max_steps"), train.get("num_train_epochs")
    return steps if steps is not None and steps > 0 else None, DEFAULT_EPOCHS if epochs is None else float(epochs)


def _find_named(output_dir: str, resume: str) -> str:
    named = Path(resume).expanduser()
    if not named.is_dir():
        names = [path.name for path in list_sealed(Path(output_dir))]
        there = f"there are {', '.join(names)}" if names else BEGIN
        raise ConfigError(Problem(f"no such checkpoint: {resume}", suggest(named.name, names, there), key=RESUME))
    if faults := find_faults(named):
        raise ConfigError(
            Problem(f"{resume} {faults[0]}", "name an earlier one, or leave it out for the newest", key=RESUME)
        )
    return resume


def _find_newest(output_dir: str) -> str:
    found, passed = find_verified(Path(output_dir))
    if found is None:
        what = f"{output_dir} holds no checkpoint to go on from"
        if passed:
            remedy = "name another output_dir, and leave train.resume_from_checkpoint out"
            raise ConfigError([Problem(each, remedy, key=RESUME) for each in passed])
        raise ConfigError(Problem(what, BEGIN, key=RESUME))
    for each in passed:
        logger.warning("%s: it is passed over", each)
    return str(found)
