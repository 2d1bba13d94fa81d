"""A run that is typed again: finished, gone on with or begun, and what of it has been changed since it began.

check_not_moved     by a run file that lies in a run folder
check_typed_again   what the folder says without reading a checkpoint: before torch is imported, too
check_processes     as soon as their number is known
keep_rows_of_a_step where it is started again on the machines that are left
choose_checkpoint   the one that all processes go on from
record_changes      for the manifest
"""

from __future__ import annotations

import logging
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from hf_finetune.config import Change, Run, find_changes, read_settings
from hf_finetune.environment import count_restarts, describe_machine
from hf_finetune.errors import ConfigError, FinetuneError, Problem, RunFinished
from hf_finetune.folders import AUTO, RUN_FILE, describe_finished, is_run_folder, list_numbered, read_manifest
from hf_finetune.metric_info import say_count
from hf_finetune.reporting import (
    Resumed,
    check_resumable,
    find_finished,
    find_resumed,
    get_resume,
    read_planned_steps,
    read_reached,
)
from hf_finetune.shell import shell_path

logger = logging.getLogger(__name__)

ALLOW_CHANGED = "--allow-changed"
OF_A_STEP = ("train.per_device_train_batch_size", "train.gradient_accumulation_steps")
PER_DEVICE = 8
"""The default of transformers for the rows of one process."""
ELSEWHERE = "put it back, or name another output_dir"


def check_not_moved(argv: Sequence[str], run: Run) -> None:
    """Raise `ConfigError` where the run file in `argv` lies in a run folder, and says that the run is in another.

    The folder was moved or copied, or is named from another working folder: the run would begin anew where it was.
    """
    if not isinstance(argv[0], str):  # from Python a run may be a dictionary
        return
    file = Path(argv[0])
    if file.name != RUN_FILE or any(word.startswith("output_dir=") for word in argv[1:]):
        return
    if not is_run_folder(file.parent) or file.parent.resolve() == Path(run.output_dir).resolve():
        return
    what = f"{file} says that its run is in {run.output_dir}, where it was, or is from another working folder"
    remedy = f"add output_dir={shell_path(file.parent)} to go on with this one, or name the folder of a new run"
    raise ConfigError(Problem(what, remedy, key="output_dir", code="HF910"))


def check_typed_again(run: Run, processes: int, *, allow_changed: bool) -> list[Change]:
    """What of `run`, its defaults filled in, is another setting than the run in its folder has: it may go on with all.

    `processes`: as many as it is to have, on all machines.

    Raises `RunFinished` where that run has come to its end and no more is asked for, and `ConfigError` where there is
    nothing to go on from or a change is not taken. No checkpoint is read. A finished run that was to be pushed, and was
    stopped before, is pushed: `NotPushedError` where it cannot be.
    """
    resume = get_resume(run.train)
    if run.recipe == "score" or resume is False:
        return []
    # A finished run comes first: it may have no checkpoint left, and needs none to say that it is finished.
    report = find_finished(run.output_dir, run.train)
    named = resume not in (AUTO, True)  # the command that went on from it may be typed again, but not a wrong name
    if report is None or (named and list_numbered(Path(run.output_dir))):
        check_resumable(run.output_dir, resume)
    if report is None and not list_numbered(Path(run.output_dir)):
        return []
    changes = _compare(run, processes)
    if report is None:
        _refuse(changes, allow_changed=allow_changed)
        return changes
    told = describe_finished(run.output_dir, report)
    if others := [each for each in changes if each.kind != "safe"]:
        finished = Problem(f"{told[0]}, under other settings", told[1], key="output_dir", code="HF901")
        raise ConfigError([finished, *(_as_problem(each, ELSEWHERE) for each in others)])
    if run.hub is not None:
        from hf_finetune.release import push_run  # huggingface_hub: not for runs that stay here

        push_run(run)
    raise RunFinished(Problem(*told, code="HF908"))


def check_processes(run: Run, processes: int, *, allow_changed: bool) -> None:
    """Raise `ConfigError` where a run goes on with so many processes that a step has other rows, unless allowed."""
    before = read_manifest(Path(run.output_dir)).get("processes", processes)
    if before == processes or allow_changed or not list_numbered(Path(run.output_dir)):
        return
    settings = read_settings(Path(run.output_dir, RUN_FILE))
    if settings is not None and _count_rows(settings["train"], before) == _count_rows(run.train, processes):
        return
    what = f"{processes} processes, and the run began with {before}: a step would be of other rows"
    raise ConfigError(
        Problem(what, f"start as many, or let a step have as many rows, or allow it with {ALLOW_CHANGED}", code="HF901")
    )


def keep_rows_of_a_step(run: Run, processes: int, environment: Mapping[str, str], *, says: bool = False) -> Run:
    """`run` with as many accumulated batches as its steps need for their rows where it is started again by itself.

    On the machines that are left (`--max-restarts`). As it was typed where a step has its rows, or where they cannot be
    shared out among so many: `check_processes` refuses that. `says`: in the log, once for all processes.
    """
    settings = read_settings(Path(run.output_dir, RUN_FILE))
    if not count_restarts(environment) or settings is None:
        return run
    before = read_manifest(Path(run.output_dir)).get("processes", processes)
    rows, of_one = _count_rows(settings["train"], before), _count_rows(run.train, processes)
    accumulated = int(run.train.get("gradient_accumulation_steps") or 1)
    of_batch = of_one // accumulated
    if rows == of_one or rows % of_batch:
        return run
    if says:
        what = "%d %s left: train.gradient_accumulation_steps is %d instead of %d, for the %d rows of a step"
        are = "process is" if processes == 1 else "processes are"
        logger.warning(what, processes, are, rows // of_batch, accumulated, rows, extra={"code": "HF912"})
    return run.model_copy(update={"train": run.train | {"gradient_accumulation_steps": rows // of_batch}})


def choose_checkpoint(run: Run, *, first: bool, broadcast: Any) -> str | None:
    """The checkpoint that all processes go on from: the first verifies it, and says so; None where the run begins.

    Every rank calls it; `broadcast` gives a list of the first rank to all. Raises `ConfigError` on all of them alike.
    """
    found: Resumed | FinetuneError = Resumed(None)
    if first:
        try:
            found = find_resumed(run.output_dir, get_resume(run.train))
        except FinetuneError as refused:  # the others would wait for what never comes
            found = refused
    [found] = broadcast([found])
    if isinstance(found, FinetuneError):
        raise found
    if first and found.said is not None:
        logger.info("%s", found.said)
    return found.checkpoint


def record_changes(run: Run, processes: int, checkpoint: str) -> list[dict[str, Any]]:
    """What has been changed on the way of a run that goes on from a checkpoint now, as its manifest has it."""
    before: list[dict[str, Any]] = read_manifest(Path(run.output_dir)).get("changes", [])
    now = [{"from": Path(checkpoint).name, "key": each.key, "old": each.old, "new": each.new, "kind": each.kind}
           for each in _compare(run, processes)]  # fmt: skip
    return [*before, *now]


def say_changes(changes: list[Change], checkpoint: str | None) -> None:
    """Say what has changed since the run began, a line each, and where it is beyond its new end already."""
    run_file = Path(checkpoint).parent / RUN_FILE if checkpoint else None
    if run_file is not None and run_file.exists() and read_settings(run_file) is None:
        logger.warning(
            "%s is torn, and is written anew: the settings are compared with nothing", run_file, extra={"code": "HF913"}
        )
    for change in changes:
        logger.warning("%s", change, extra={"code": "HF912"})
    reached = read_reached(checkpoint) if checkpoint else {}
    steps = next((each.new for each in changes if each.key == "train.max_steps" and each.new > 0), None)
    epochs = next((each.new for each in changes if each.key == "train.num_train_epochs"), None)
    if steps is not None and reached.get("step", 0) > steps:
        what = "the run is beyond train.max_steps already, at step %d: no step is taken, and it ends with its %d steps"
        logger.warning(what, reached["step"], reached["step"], extra={"code": "HF914"})
    elif steps is None and epochs is not None and reached.get("epoch", 0) > epochs:
        what = "the run is beyond train.num_train_epochs already, at epoch %.4g: no step is taken, and it ends there"
        logger.warning(what, reached["epoch"], extra={"code": "HF914"})


def _compare(run: Run, processes: int) -> list[Change]:
    before = read_settings(Path(run.output_dir, RUN_FILE))
    if before is None:
        return []
    began = read_manifest(Path(run.output_dir))
    same = began.get("machine", {}) == describe_machine()
    changes = find_changes(before, run, read_planned_steps(run.output_dir), same_machine=same)
    rows = _count_rows(before.get("train", {}), began.get("processes", processes))
    if rows == _count_rows(run.train, processes):  # which stand in the order of the run, by any number of processes
        words = f"has {say_count(rows, 'row')} a step as before"
        changes = [replace(each, kind="safe", words=words) if each.key in OF_A_STEP else each for each in changes]
    # Of another recipe it is another run: what else differs is no news.
    return [each for each in changes if each.key == "recipe"] or changes


def _count_rows(train: Mapping[str, Any], processes: int) -> int:
    """The rows of a step, over all processes."""
    of_one = train.get("per_device_train_batch_size") or PER_DEVICE
    return int(of_one) * int(train.get("gradient_accumulation_steps") or 1) * processes


def _refuse(changes: list[Change], *, allow_changed: bool) -> None:
    """Raise `ConfigError` with all changes that are not taken."""
    problems = []
    for change in changes:
        if change.kind == "fixed":
            problems.append(_as_problem(change, ELSEWHERE))
        elif change.asks and not allow_changed:
            problems.append(_as_problem(change, f"{ELSEWHERE}, or allow it with {ALLOW_CHANGED}"))
    if problems:
        raise ConfigError(problems)


def _as_problem(change: Change, remedy: str) -> Problem:
    return Problem(f"{change.shown}: {change.words}", remedy, key=change.key, code="HF901")
