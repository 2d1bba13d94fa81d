"""What every recipe does before step 2 and after step 6.

    start_run       check the settings, claim the run folder, ask the Hub, set up this process
    record_inputs   manifest.json, run.yaml and row_prints.npz, before anything is trained
    finish_run      report.json, report.html and the model card, then the push

`start_scoring` and `finish_scoring` are the same for `recipes/score.py`, which trains nothing.
"""

from __future__ import annotations

import logging
import os
import platform
import time
from collections.abc import Mapping, Sequence
from datetime import UTC, datetime
from functools import partial
from pathlib import Path
from typing import Any, Protocol

from accelerate import PartialState
from accelerate.utils import broadcast_object_list
from transformers import TrainingArguments
from transformers.trainer_utils import TrainOutput

from hf_finetune.chat import today
from hf_finetune.config import SFT_RECIPES, RecipeName, Run, dump_dict, dump_yaml, load_run
from hf_finetune.data import Splits, keep_rejected_lines, keep_row_prints
from hf_finetune.environment import (
    check_same,
    check_shared,
    check_tasks,
    describe_commit,
    describe_machine,
    describe_processes,
    describe_threads,
    get_installed_versions,
    init_processes,
    keep_threads,
    know_processes,
    report_environment,
    set_up_logging,
)
from hf_finetune.errors import ConfigError, DataError
from hf_finetune.evaluation import ScoreResult, with_greedy_decoding
from hf_finetune.folders import hold_run_folder, leave_newer, read_run_id, sweep
from hf_finetune.interruption import LAUNCHER, unwind_when_stopped
from hf_finetune.memory import advise_when_out_of_memory
from hf_finetune.models import (
    check_same_model,
    continue_adapter,
    count_parameters,
    describe_model_source,
    pin_revision,
    pin_scored,
    probe_tokenizer,
)
from hf_finetune.preflight import find_at_start
from hf_finetune.ranks import remember_processes
from hf_finetune.release import check_push, push_run
from hf_finetune.reporting import (
    RunReport,
    claim_run_folder,
    describe_kept,
    find_run_id,
    get_resume,
    open_manifest,
    read_template_date,
    read_threads,
    say_folder_outside,
    write_run_folder,
)
from hf_finetune.shell import shell_line
from hf_finetune.training import (
    TrainerMixin,
    apply_defaults,
    build_training_arguments,
    collect_train_stats,
    format_launch_line,
    make_run_id,
    read_launch_words,
    suggest_memory_settings,
)
from hf_finetune.typed_again import (
    ALLOW_CHANGED,
    check_not_moved,
    check_processes,
    check_typed_again,
    choose_checkpoint,
    keep_rows_of_a_step,
    record_changes,
    say_changes,
)

logger = logging.getLogger(__name__)


class SplitFacts(Protocol):
    """What became of the rows of one split: rows, tokens, trained tokens, dropped."""

    def as_dict(self) -> dict[str, Any]: ...


def start_run(argv: Sequence[str], recipe: RecipeName) -> tuple[Run, TrainingArguments]:
    """Read the run that `argv` describes, fill in the defaults, claim its folder and set up this process.

    Every rank calls it. `args.resume_from_checkpoint` is the verified checkpoint that the run goes on from, or None.
    Raises `ConfigError` with all problems of the settings at once, `FolderInUse` where another process has the folder,
    `RunFinished` where the run has come to its end, `CannotWriteError` where there is no space for the folder, and
    `HubError` where `hub:` asks for a push that the Hub would refuse.
    """
    allow_changed = ALLOW_CHANGED in argv
    words = read_launch_words()
    check_tasks(os.environ, shell_line(words))
    argv = [each for each in argv if each != ALLOW_CHANGED]
    run = load_run(argv, recipe)
    check_not_moved(argv, run)
    resume = get_resume(run.train)
    pushes = run.hub is not None
    unwind_when_stopped(partial(describe_kept, run.output_dir, words, resume, pushes=pushes, began=time.time()))
    advise_when_out_of_memory(partial(suggest_memory_settings, run))
    if hold_run_folder(run.output_dir):  # before anything in it is looked at
        sweep(Path(run.output_dir))
    run = continue_adapter(apply_defaults(run))
    processes = int(os.environ.get("WORLD_SIZE", "1"))
    run = keep_rows_of_a_step(run, processes, os.environ)
    changes = check_typed_again(run, processes, allow_changed=allow_changed)
    claim_run_folder(run.output_dir, resume=resume)
    check_push(run)
    args = build_training_arguments(_with_train(run, resume_from_checkpoint=None))
    _check_same_run(run)
    if not args.save_on_each_node:
        check_shared(Path(run.output_dir))
    check_processes(run, args.world_size, allow_changed=allow_changed)
    checkpoint = choose_checkpoint(run, first=args.process_index == 0, broadcast=broadcast_object_list)
    args.resume_from_checkpoint = checkpoint
    if args.process_index == 0:
        say_changes(changes, checkpoint)
    run = _fix_date(pin_revision(_with_train(run, resume_from_checkpoint=None)), resume=checkpoint is not None)
    if LAUNCHER not in os.environ:  # which has said so
        say_folder_outside(run.output_dir)
        logger.info("%s", describe_threads())
    return run, args


def record_inputs(run: Run, args: TrainingArguments | None, splits: Splits) -> None:
    """Write manifest.json and run.yaml: what the run reads, its settings and the command, on the main process alone.

    A run that trains keeps prints of its rows, too.

    `args` is None where nothing is trained. Raises `DataError` or `ModelError` where a resumed run would go on with
    other rows or another model than it began with. Every rank calls it: all compute with the same number of threads.
    """
    resume = None if args is None else args.resume_from_checkpoint
    threads = keep_threads(read_threads(run.output_dir) if resume else None)
    summary = splits.summarize()
    _check_same_data(summary)
    tokenizer = run.model.tokenizer if isinstance(run.model.tokenizer, str) else None
    check_same_model({"model.path": run.model.path, "model.tokenizer": tokenizer, "model.adapter": run.model.adapter})
    if not (PartialState().is_main_process if args is None else args.should_save):
        return
    manifest = {
        "run_id": (find_run_id(run.output_dir, resume) if resume else None) or make_run_id(),
        "data": summary,
        "model": describe_model_source(run.model),
        "versions": get_installed_versions(),
        "seed": run.eval.seed if args is None else args.seed,
        "threads": threads,
        **({} if args is None else {"findings": find_at_start(run, splits)}),
        **({} if args is None else {"processes": args.world_size, "machine": describe_machine()}),
        **({} if run.data.template_date is None else {"template_date": run.data.template_date}),
        **({"changes": record_changes(_as_asked(run), PartialState().num_processes, resume)} if resume else {}),
        "launch": format_launch_line(),
        "date": datetime.now(UTC).isoformat(timespec="seconds"),
        "project": describe_commit(),
    }
    open_manifest(run.output_dir, manifest, dump_yaml(_as_asked(run)), resume=resume)
    if resume and (left := leave_newer(Path(run.output_dir), Path(resume))):
        what = "%s: of steps beyond %s, from which the run goes on; kept under names that end in .left"
        logger.info(what, ", ".join(left), Path(resume).name)
    keep_rejected_lines(Path(run.output_dir), splits, resume=bool(resume))
    if args is not None:
        keep_row_prints(Path(run.output_dir), splits, resume=bool(resume))


def _check_same_run(run: Run) -> None:
    """Raise `ConfigError` on all processes where one has other settings, or other versions of the libraries."""
    settings = {
        f"{section}.{name}" if isinstance(values, dict) else section: value
        for section, values in dump_dict(run).items()
        for name, value in (values.items() if isinstance(values, dict) else [("", values)])
    }
    remedy = "start every machine with the same run file, settings and kind of device"
    check_same(settings, "other settings", remedy, ConfigError, "HF725")
    versions = {**get_installed_versions(), "Python": platform.python_version()}
    check_same(versions, "other versions", "install the same ones on every machine", ConfigError, "HF725")


def _check_same_data(summary: Mapping[str, Any]) -> None:
    """Raise `DataError` on all processes where one has read other rows."""
    rows = {f"the rows of {name}": value for name, value in summary["splits"].items()}
    others = {name: summary[name] for name in ("format", "labels", "stream") if name in summary}
    remedy = "give each machine the same files, and leave them alone while a run starts"
    check_same(rows | others, "read other data", remedy, DataError, "HF932")


def _with_train(run: Run, **settings: Any) -> Run:
    """`run` with these settings in its section `train`; those that are None are taken out."""
    train = {name: value for name, value in (run.train | settings).items() if value is not None or name not in settings}
    return run.model_copy(update={"train": train})


def _fix_date(run: Run, *, resume: bool) -> Run:
    """Return `run` with the day that its chat template is told: a resumed run's own, for all ranks that of the first.

    Of recipes without chat templates the run is returned as it is.
    """
    if run.recipe not in SFT_RECIPES or run.data.template_date is not None:
        return run
    began = read_template_date(run.output_dir) if resume else None
    [date] = broadcast_object_list([began or today()])
    data = run.data.model_copy(update={"template_date": date})
    data.model_fields_set.discard("template_date")  # a template that asks for no date refuses one that was asked for
    return run.model_copy(update={"data": data})


def _as_asked(run: Run) -> Run:
    """`run` without a day that was not asked for: another run has its own."""
    if "template_date" in run.data.model_fields_set:
        return run
    return run.model_copy(update={"data": run.data.model_copy(update={"template_date": None})})


def finish_run(
    run: Run,
    trainer: TrainerMixin,
    result: TrainOutput,
    facts: Mapping[str, SplitFacts],
    evaluation: dict[str, Any],
    samples: list[dict[str, Any]],
) -> None:
    """Complete the run folder (report.json, report.html, README.md) and push it where `hub:` says so.

    Every rank calls it; the main process writes. Raises `NotPushedError` where the folder is complete and not pushed.
    """
    remember_processes([])  # those that have nothing to write end now
    if not trainer.is_world_process_zero():
        return
    model: Any = trainer.model  # typed by transformers as what it may be before training
    report = RunReport(
        recipe=run.recipe,
        run_id=read_run_id(Path(run.output_dir)) or make_run_id(),
        status="done",
        settings=dump_dict(_as_asked(run)),
        data={name: counted.as_dict() for name, counted in facts.items()},
        parameters=count_parameters(model).as_dict(),
        train=collect_train_stats(trainer, result),
        evaluation=evaluation,
        samples=samples,
        distributed={
            **describe_processes(trainer.accelerator.state),
            **trainer.held,
            **trainer.waits.describe(),
            **trainer.restarts.describe(),
        },
        environment=report_environment(),
    )
    tokenizer: Any = trainer.processing_class  # typed as anything that prepares inputs
    write_run_folder(run.output_dir, report, {"tokenizer_probe": probe_tokenizer(tokenizer)})
    push_run(run)


def start_scoring(argv: Sequence[str]) -> Run:
    """`start_run` of a run that scores a saved model: answers are greedy unless its file says how they are drawn."""
    check_tasks(os.environ, shell_line(read_launch_words()))
    run = with_greedy_decoding(load_run(argv, recipe="score"))
    unwind_when_stopped()
    hold_run_folder(run.output_dir)
    claim_run_folder(run.output_dir, resume=None)
    processes = init_processes()
    know_processes()
    set_up_logging(main_process=processes.is_main_process)
    _check_same_run(run)
    pin_scored(run)
    base = run.eval.base if isinstance(run.eval.base, str) else None
    check_same_model({"model.path": run.model.path, "eval.base": base})
    return run


def finish_scoring(run: Run, scored: ScoreResult) -> None:
    """`finish_run` of a run that scores: every process calls it, and the main process writes."""
    remember_processes([])
    if not PartialState().is_main_process:
        return
    report = RunReport(
        recipe=run.recipe,
        run_id=read_run_id(Path(run.output_dir)) or make_run_id(),
        status="done",
        settings=dump_dict(run),
        data={"test": scored.facts},
        parameters=scored.parameters,
        train={},
        evaluation={"test": scored.evaluation},
        distributed=describe_processes(),
        environment=report_environment(),
    )
    write_run_folder(run.output_dir, report)
