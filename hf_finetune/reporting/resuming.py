"""A run that is typed again: finished, or gone on with from a checkpoint; looked at before anything is written."""

from __future__ import annotations

import logging
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import date as calendar_date
from pathlib import Path
from typing import Any, NoReturn

from hf_finetune.cache.entries import was_used_since
from hf_finetune.errors import ConfigError, Problem
from hf_finetune.folders import (
    AUTO,
    CHECKPOINT,
    MANIFEST,
    PUSHED,
    REPORT,
    RESUME,
    RUN_FILE,
    find_earlier_run,
    is_run_folder,
    list_checkpoints,
    read_finished,
    read_manifest,
    read_run_id,
)
from hf_finetune.folders.checkpoint_records import read_progress
from hf_finetune.folders.checkpoints import (
    find_doubts,
    find_faults,
    find_foreign,
    find_verified,
    get_step,
    list_numbered,
    list_sealed,
    read_seal,
)
from hf_finetune.folders.record_kinds import is_amount
from hf_finetune.folders.weights import find_lost_weights
from hf_finetune.reporting.run_record import NON_FINITE_ERROR, RunRecord
from hf_finetune.shell import shell_line

logger = logging.getLogger(__name__)

Resume = str | bool
"""`train.resume_from_checkpoint`: `auto`, true, false, or a checkpoint."""
_LAUNCHED_ON = re.compile(r"accelerate_configs/(\w{1,40})\.yaml")
BEGIN = f"leave {RESUME} out to begin the run"
WEIGHTS = ("model.safetensors", "model.safetensors.index.json", "adapter_model.safetensors")
# More than any machine has: asked for as many, the system would end the process.
MOST_THREADS = 4096
DEFAULT_EPOCHS = 3.0
"""`TrainingArguments.num_train_epochs`."""


@dataclass(frozen=True)
class Resumed:
    """Where a run goes on; `checkpoint` is None where it begins at its first step."""

    checkpoint: str | None
    said: str | None = None
    """What there is to say of it, a line."""


def get_resume(train: Mapping[str, Any]) -> Resume:
    """What a section `train` asks for."""
    asked: Resume | None = train.get("resume_from_checkpoint")
    return AUTO if asked is None else asked


def find_finished(output_dir: str, train: Mapping[str, Any]) -> dict[str, Any] | None:
    """report.json of a run that has come to its end, where a run with this section `train` asks for no more of it.

    None where its weights are lost: it is gone on with from its last checkpoint, which writes them again.
    """
    report = read_finished(Path(output_dir))
    if report is None or _asks_for_more(report, train) or find_lost_weights(Path(output_dir)):
        return None
    return report


def check_resumable(output_dir: str, resume: Resume) -> None:
    """Raise `ConfigError` where there is nothing to go on from, by the checkpoints' manifests: nothing else is read."""
    folder, there = Path(output_dir), list_numbered(Path(output_dir))
    if resume is False:
        return
    if there and isinstance(resume, str) and resume != AUTO:
        _check_named(folder, resume)
    elif there and not list_sealed(folder):
        _refuse_all({each: find_faults(each)[0] for each in reversed(there)})
    elif there:
        return
    elif read_finished(folder) and (lost := find_lost_weights(folder)):
        what = f"{output_dir} holds a finished run whose {lost}, and no checkpoint to write it again from"
        raise ConfigError(
            Problem(what, "put it back, or train again in another output_dir", key="output_dir", code="HF909")
        )
    elif resume != AUTO:
        _refuse_missing(output_dir, resume)
    elif (earlier := find_earlier_run(output_dir)) is not None:  # which is finished, and has nothing to train on from
        raise ConfigError(Problem(*earlier, key="output_dir", code="HF691"))


def find_resumed(output_dir: str, resume: Resume) -> Resumed:
    """The verified checkpoint that a run goes on from. One process calls it: every file of a checkpoint is read.

    Raises `ConfigError` where there are checkpoints and none of them can be gone on from. Writes nothing.
    """
    folder = Path(output_dir)
    check_resumable(output_dir, resume)
    if resume is False:
        return Resumed(None)
    if not list_numbered(folder):
        begun = f"{output_dir} holds a run that had saved no checkpoint: it begins anew"
        return Resumed(None, begun if is_run_folder(folder) else None)
    if isinstance(resume, str) and resume != AUTO:
        named = _find_named(folder, resume)
        if faults := find_foreign(named, read_run_id(folder)) or find_doubts(named):
            remedy = "name another, or leave it out for the newest"
            raise ConfigError([Problem(f"{resume} {fault}", remedy, key=RESUME, code="HF906") for fault in faults])
        return Resumed(str(named), _describe(folder, named, {}))
    found, passed = find_verified(folder, run_id=read_run_id(folder) or _find_only_id(folder), look=find_doubts)
    if found is None:
        _refuse_all({folder / name: fault for name, fault in passed.items()})
    return Resumed(str(found), _describe(folder, found, passed))


def find_run_id(output_dir: str, checkpoint: str) -> str | None:
    """The id of the run that goes on from a checkpoint, by its manifest or the checkpoint's; None of older ones."""
    found = read_run_id(Path(output_dir)) or (read_seal(Path(checkpoint)) or {}).get("run_id")
    return found if isinstance(found, str) else None


def read_planned_steps(output_dir: str) -> int | None:
    """How many steps the run in a folder was to take, by its report or its newest checkpoint."""
    report = read_finished(Path(output_dir)) or {}
    planned = report.get("train", {}).get("max_steps")
    for checkpoint in [] if planned else list_checkpoints(Path(output_dir))[-1:]:
        planned = read_progress(checkpoint).get("max_steps")
    return planned if isinstance(planned, int) else None


def read_reached(checkpoint: str) -> dict[str, float]:
    """How far a checkpoint is, `step` and `epoch`; {} where it does not say."""
    state = read_progress(Path(checkpoint))
    return {"step": state["global_step"], "epoch": state["epoch"]} if state else {}


def read_threads(output_dir: str) -> int | None:
    """How many threads a process of the run began with, by its manifest; None where that does not say."""
    threads = read_manifest(Path(output_dir)).get("threads")
    return threads if is_amount(threads) and 0 < threads <= MOST_THREADS else None


def read_template_date(output_dir: str) -> str | None:
    """The day that the chat template of the run was told, by its manifest; None where that does not say."""
    date = read_manifest(Path(output_dir)).get("template_date")
    try:
        return None if date is None else str(calendar_date.fromisoformat(date))
    except (TypeError, ValueError):
        return None


def describe_kept(
    output_dir: str,
    command: Sequence[str],
    resume: Resume = AUTO,
    *,
    pushes: bool = False,
    began: float | None = None,
) -> str:
    """What is kept of a run that is stopped, and how to go on; `command` is what was typed, `resume` what it asked.

    `pushes`: the run goes to the Hub at its end. `began`: when it was started, in seconds since 1970.
    """
    folder, words = Path(output_dir), [word for word in command if not word.startswith(f"{RESUME}=")]
    if resume != AUTO and len(words) == len(command):  # the run file says so
        words.append(f"{RESUME}={AUTO}")
    # By their times: a finished run that is trained on has a report from its first end, older than its new manifest.
    if _is_newer(folder / REPORT, folder / MANIFEST):
        done = f"the run is complete, its report is {folder / 'report.html'}"
        unpushed = pushes and not _is_newer(folder / PUSHED, folder / REPORT)
        return f"{done}; push it with: {shell_line(words)}" if unpushed else done
    if whole := list_checkpoints(folder):
        kept = f"{whole[-1]} is kept, step {get_step(whole[-1])} of {_show_planned(whole[-1])}"
        return f"{kept}; go on with: {shell_line(words)}"
    kept = "nothing is kept, no checkpoint had been saved (train.save_strategy, train.save_steps)"
    if began is not None and was_used_since(began):
        kept = "the rows that were read and tokenized are in the cache, no checkpoint had been saved"
    if any(_is_newer(folder / weights, folder / MANIFEST) for weights in WEIGHTS):
        kept = f"{output_dir} keeps the trained model, which was not measured yet"
    return f"{kept}; begin again with: {shell_line(words)}"


def describe_going_on(run: RunRecord) -> str:
    """The command that goes on with a run that is stopped, or begins it again; nothing without its run.yaml.

    By the run's own file, and not by the line in its manifest, which others may have written. Nothing either where a
    loss has exploded or was not finite: the same steps would meet it again.
    """
    folder = run.folder
    if run.status != "stopped" or run.ended == NON_FINITE_ERROR or not (folder / RUN_FILE).is_file():
        return ""
    words = ["hf-finetune", "train", str(folder / RUN_FILE)]
    there = run.settings.get("output_dir")
    if isinstance(there, str) and Path(there).resolve() != folder.resolve():  # it was moved
        words.append(f"output_dir={folder}")
    if where := _LAUNCHED_ON.search(str(run.manifest.get("launch"))):
        words += ["--on", where[1]]
    return f"{'go on' if list_checkpoints(folder) else 'nothing is kept; begin again'} with: {shell_line(words)}"


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


def _check_named(folder: Path, resume: str) -> None:
    if not _find_named(folder, resume).is_dir():
        names = [path.name for path in list_sealed(folder)]
        there = f"name one of {folder}: {', '.join(names)}" if names else BEGIN
        raise ConfigError(Problem(f"no such checkpoint: {resume}", there, key=RESUME, code="HF905"))


def _find_named(folder: Path, resume: str) -> Path:
    """The checkpoint that is named by its path, or by its name alone as one of the run folder."""
    return folder / resume if CHECKPOINT.fullmatch(resume) else Path(resume).expanduser()


def _refuse_missing(output_dir: str, resume: Resume) -> None:
    if isinstance(resume, str):
        _check_named(Path(output_dir), resume)
    raise ConfigError(Problem(f"{output_dir} holds no checkpoint to go on from", BEGIN, key=RESUME, code="HF905"))


def _refuse_all(faults: Mapping[Path, str]) -> NoReturn:
    remedy = "remove it, or name another output_dir: nothing goes on from it"
    raise ConfigError(
        [Problem(f"{checkpoint} {fault}", remedy, key=RESUME, code="HF906") for checkpoint, fault in faults.items()]
    )


def _find_only_id(folder: Path) -> str | None:
    """The run whose checkpoints were copied here without its manifest. Raises `ConfigError` where they are of two."""
    owners: dict[str, str] = {}
    for checkpoint in list_sealed(folder):
        if (owner := (read_seal(checkpoint) or {}).get("run_id")) is not None:
            owners[owner] = checkpoint.name
    if len(owners) > 1:
        what = f"{folder} holds checkpoints of {len(owners)} runs ({', '.join(owners.values())}), and no {MANIFEST}"
        raise ConfigError(Problem(what, f"name the one to go on from: {RESUME}=...", key=RESUME, code="HF907"))
    return next(iter(owners), None)


def _show_planned(checkpoint: Path) -> str:
    planned = read_progress(checkpoint).get("max_steps")
    return "an unknown number" if planned is None else str(planned)


def _describe(folder: Path, checkpoint: Path, passed: Mapping[str, str]) -> str:
    said = [f"goes on from {checkpoint}, step {get_step(checkpoint)} of {_show_planned(checkpoint)}"]
    if read_finished(folder) and (lost := find_lost_weights(folder)):
        said.append(f"the run had come to its end, and {lost}: the model is written again")
    said += [f"{name} is passed over ({fault})" for name, fault in passed.items()]
    if not read_manifest(folder):
        lost = f"{MANIFEST} is torn, and" if (folder / MANIFEST).exists() else f"there is no {MANIFEST}, which"
        what = "data and model" if (folder / RUN_FILE).is_file() else "data, model and settings"
        said.append(f"{lost} is written anew: {what} are compared with nothing")
    return "; ".join(said)
