"""A finished folder -> the Hub: only files of an allow-list, without secrets, private by default, in one commit.

`docs/hub.md` is the reader's version. The folder is only read: a push that fails loses nothing, and `hf-finetune push`
resumes it. At the end of a run the run itself notes that it was pushed.

files.py        what goes along
exports.py      what goes along of an export
search/         what must not: each line with a secret, or a path of this machine, in it
weights.py      whether it can be used
redaction.py    paths shortened in what leaves
card.py         the card as it is pushed
access.py       the right to push, asked for before training
transfer.py     one commit
retries.py      failures that pass
client.py       what a connection may do
checkpoints.py  checkpoints while a run trains
"""

from __future__ import annotations

import json
import logging
import os
from collections.abc import Sequence
from dataclasses import fields, replace
from pathlib import Path
from typing import TYPE_CHECKING

from huggingface_hub import HfApi, get_token, is_offline_mode

from hf_finetune.config.checks.hub import check_repo_id
from hf_finetune.config.model_files.description import find_faults
from hf_finetune.config.sections import HubSection, Run
from hf_finetune.errors import ConfigError, DataError, FinetuneError, HubError, NotPushedError, Problem
from hf_finetune.files import hash_file, write_atomically
from hf_finetune.folders import PUSHED, REPORT, read_pushed, suggest_path
from hf_finetune.ranks import is_first_rank
from hf_finetune.release.hub.access import check_access
from hf_finetune.release.hub.card import add_license, check_gated, check_gated_base
from hf_finetune.release.hub.files import PlannedFile, find_local_base, find_odd_pages, plan_files
from hf_finetune.release.hub.redaction import redact_files
from hf_finetune.release.hub.retries import call_with_retries, describe_error, is_hub_error
from hf_finetune.release.hub.search.places import check_secrets
from hf_finetune.release.hub.transfer import PushOptions, PushResult, transfer
from hf_finetune.release.hub.weights import check_weights
from hf_finetune.shell import shell_line, shell_path

if TYPE_CHECKING:
    from transformers import TrainerCallback

__all__ = [
    "PushOptions",
    "PushResult",
    "check_push",
    "format_push_result",
    "plan_push",
    "push_checkpoints",
    "push_folder",
    "push_run",
]

logger = logging.getLogger(__name__)


def check_push(run: Run) -> None:
    """Ask the Hub before training whether the run may be pushed; on rank 0, if `run` has a hub.

    Raises `HubError`: offline, no token or one that may not write, no such owner, or a public repository that the run
    did not ask for.
    """
    if run.hub is None or not _is_main_process():
        return
    try:
        check_access(run.hub.repo_id, public=not run.hub.private, create_pr=run.hub.create_pr)
        if not run.hub.private and run.lora is None and run.model.path is not None:
            call_with_retries(lambda: check_gated(HfApi(), [str(run.model.path)]), PushOptions().patience)
    except HubError as refused:
        command = format_resume_command(run.output_dir, run.hub)
        later = f"or leave hub out, and push when it is trained: `{command}`"
        problems = [replace(each, remedy=f"{each.remedy}; {later}", key="hub") for each in refused.problems]
        raise HubError(problems) from refused


def push_run(run: Run) -> None:
    """Push the finished run folder to `run.hub`, if there is one; on rank 0.

    That it was is noted in the folder: a run that is typed again is pushed only where it was not. Raises
    `NotPushedError`, whatever the reason, with the command that resumes the push; the folder is complete.
    """
    if run.hub is None or not _is_main_process():
        return
    noted = {"repo_id": run.hub.repo_id, "report_sha256": hash_file(Path(run.output_dir, REPORT))}
    if noted.items() <= read_pushed(Path(run.output_dir)).items():
        return
    options = PushOptions(not run.hub.private, run.hub.revision, run.hub.create_pr)
    try:
        facts = push_folder(run.output_dir, run.hub.repo_id, options=options)
    except NotPushedError:
        raise
    except FinetuneError as refused:
        raise _make_not_pushed_error(refused.problems, run.output_dir, run.hub.repo_id, options) from refused
    logger.info("%s", format_push_result(facts))
    write_atomically(Path(run.output_dir, PUSHED), json.dumps({**noted, "commit": facts.commit}), private=True)


def push_folder(folder: str | Path, repo_id: str, *, options: PushOptions | None = None) -> PushResult:
    """Push the model in `folder` to `repo_id`, private unless `options.public`.

    Raises `ConfigError` or `DataError` for a problem of folder, name or license, before the Hub is asked; and
    `NotPushedError`, with the command that resumes the push, if the Hub refuses it or cannot be reached.
    """
    options = options or PushOptions()
    files = plan_push(folder, repo_id, options=options)
    try:
        if is_offline_mode():
            raise HubError(Problem("HF_HUB_OFFLINE is set, so the Hub is not asked", "unset it", code="HF801"))
        if get_token() is None:
            raise HubError(
                Problem(
                    "there is no Hugging Face token here", "log in with `hf auth login`, or set HF_TOKEN", code="HF802"
                )
            )
        if options.public:
            call_with_retries(lambda: check_gated_base(HfApi(), Path(folder), options.license), options.patience)
        facts = transfer(files, repo_id, options)
        if options.public and facts.private:
            logger.warning(
                "%s was there already, and stays private: make it public in its settings",
                repo_id,
                extra={"code": "HF805"},
            )
        return facts
    except HubError as refused:
        raise _make_not_pushed_error(refused.problems, folder, repo_id, options) from refused
    except Exception as problem:
        if not is_hub_error(problem):
            raise
        raise _make_not_pushed_error([describe_error(problem)], folder, repo_id, options) from problem


def plan_push(folder: str | Path, repo_id: str, *, options: PushOptions) -> list[PlannedFile]:
    """List the files that would be pushed, checked: complete, as the run wrote them, licensed, without secrets, usable.

    Paths of this machine are taken out of them. Raises `ConfigError`, `DataError` or `ModelError` where they are not.
    """
    check_repo_id(repo_id)
    if not os.path.isdir(folder):
        remedy = "name a run folder or a model folder"
        remedy = remedy if os.path.exists(folder) else suggest_path(str(folder), remedy)
        raise ConfigError(Problem("is no folder", remedy, path=str(folder), code="HF634"))
    # Before anything is opened: the card is made anew from files of the folder, one of which may be a pipe, or hold a
    # list where an object belongs.
    if problems := find_faults(Path(folder), str(folder)) or find_odd_pages(Path(folder)):
        raise DataError(problems)
    card = add_license(Path(folder), options.license, repo_id)
    files = plan_files(Path(folder), card=card)
    found = check_secrets(files)
    check_weights(Path(folder), files)
    if base := find_local_base(Path(folder)):
        remedy = "push the base and train on its Hub id, or push the model of hf-finetune merge"
        logger.warning(
            "the adapter loads only where its base is, the folder %s of this machine: %s",
            base,
            remedy,
            extra={"code": "HF826"},
        )
    return redact_files(Path(folder), files, found)


def push_checkpoints(run: Run) -> list[TrainerCallback]:
    """Make the callback that pushes a checkpoint every `hub.push_every` steps in the background; on every rank."""
    # Trainer's own push_to_hub (5.23) never looks at the exception of a background push (PushInProgress), and uploads
    # training_args.bin, a pickle with `hub_token` in it. This callback can go once both are mended.
    if run.hub is None or run.hub.push_every is None:
        return []
    from hf_finetune.release.hub.checkpoints import CheckpointPusher

    return [CheckpointPusher(run.hub)]


def format_resume_command(folder: str | Path, target: HubSection | PushOptions, repo_id: str | None = None) -> str:
    """Format the command that pushes `folder` with the options of `target`; it holds no secret."""
    words: list[str] = []
    if isinstance(target, HubSection):
        repo_id, target = target.repo_id, PushOptions(not target.private, target.revision, target.create_pr)
    words.append(str(repo_id))
    given = {field.name: getattr(target, field.name) for field in fields(target)}
    words += [f"--{name.replace('_', '-')}" for name in ("public", "create_pr") if given[name]]
    for name in ("revision", "license"):
        words += [f"--{name}", given[name]] if given[name] else []
    words += ["--message", target.message] if target.message != PushOptions().message else []
    return f"hf-finetune push {shell_path(folder)} {shell_line(words)}"


def format_push_result(facts: PushResult) -> str:
    """Format what was pushed as one line."""
    kind = "private" if facts.private else "public"
    sent = f"{facts.sent_files} of {facts.files} files sent, {facts.sent_bytes / 1e6:,.1f} MB"
    if not facts.sent_files:
        sent = f"all {facts.files} files were there already"
    return f"pushed to {facts.url} ({kind}, commit {facts.commit[:12]}): {sent}"


def _make_not_pushed_error(
    problems: Sequence[Problem], folder: str | Path, repo_id: str, options: PushOptions
) -> NotPushedError:
    command = format_resume_command(folder, options, repo_id)
    # In quotes: what is copied to the end of the line would have the code in it.
    later = f"{folder} is complete; to go on: `{command}`"
    return NotPushedError(
        [Problem(f"not pushed: {replace(each, code='')}; {later}", code=each.code) for each in problems]
    )


def _is_main_process() -> bool:
    # torchrun sets RANK for each process, and so does accelerate for those of mpirun (state.py of 1.15).
    return is_first_rank()
