"""A finished folder -> the Hub: only files of the allow-list, without secrets, private unless said, in one commit.

`docs/hub.md` is the reader's version. The folder is only read: a push that fails loses nothing, and is gone on with by
`hf-finetune push`.
"""

from __future__ import annotations

import logging
import os
from dataclasses import fields
from pathlib import Path
from typing import TYPE_CHECKING

from huggingface_hub import HfApi, get_token, is_offline_mode

from hf_finetune.config.checks_hub import require_repo_id
from hf_finetune.config.sections import HubSection, Run
from hf_finetune.errors import ConfigError, FinetuneError, HubError, NotPushedError, Problem
from hf_finetune.release.hub.access import check_access
from hf_finetune.release.hub.card import check_gated, check_gated_base, licensed_card
from hf_finetune.release.hub.files import PlannedFile, local_base, planned_files
from hf_finetune.release.hub.requests import in_words, is_of_the_hub, patiently
from hf_finetune.release.hub.secrets import check_secrets
from hf_finetune.release.hub.transfer import PushFacts, PushOptions, transfer
from hf_finetune.shell import shell_line, shell_path

if TYPE_CHECKING:
    from transformers import TrainerCallback

__all__ = ["PushFacts", "PushOptions", "check_push", "checkpoint_pushes", "plan_push", "push_folder", "push_run"]

logger = logging.getLogger(__name__)


def check_push(run: Run) -> None:
    """Ask the Hub, before anything is trained, whether the run may be pushed; on rank 0, where `run` has a hub.

    Raises `HubError`: offline, no token, one that may not write, no such owner, or a public repository unasked.
    """
    if run.hub is None or not _is_main():
        return
    try:
        check_access(run.hub.repo_id, public=not run.hub.private, create_pr=run.hub.create_pr)
        if not run.hub.private and run.lora is None and run.model.path is not None:
            patiently(lambda: check_gated(HfApi(), [str(run.model.path)]), PushOptions().patience)
    except HubError as refused:
        later = f"or leave hub out, and push when it is trained: {resume_command(run.output_dir, run.hub)}"
        problems = [Problem(each.what, f"{each.remedy}; {later}", key="hub") for each in refused.problems]
        raise HubError(problems) from refused


def push_run(run: Run) -> None:
    """Push the finished run folder to `run.hub`, on rank 0; nothing is done without one.

    Raises `NotPushedError`, whatever the reason, with the command that goes on; the folder is complete.
    """
    if run.hub is None or not _is_main():
        return
    options = PushOptions(not run.hub.private, run.hub.revision, run.hub.create_pr)
    try:
        facts = push_folder(run.output_dir, run.hub.repo_id, options=options)
    except NotPushedError:
        raise
    except FinetuneError as refused:
        raise _not_pushed(refused.problems, run.output_dir, run.hub.repo_id, options) from refused
    logger.info("%s", pushed_in_words(facts))


def push_folder(folder: str | Path, repo_id: str, *, options: PushOptions | None = None) -> PushFacts:
    """Push what `folder` holds of a model to `repo_id`, private unless `options.public`.

    What is wrong with folder, name or licence raises before the Hub is asked (`ConfigError`, `DataError`); what fails
    there raises `NotPushedError` with the command that goes on.
    """
    options = options or PushOptions()
    files = plan_push(folder, repo_id, options=options)
    try:
        if is_offline_mode():
            raise HubError(Problem("HF_HUB_OFFLINE is set, so the Hub is not asked", "unset it"))
        if get_token() is None:
            raise HubError(
                Problem("there is no Hugging Face token here", "log in with `hf auth login`, or set HF_TOKEN")
            )
        if options.public:
            patiently(lambda: check_gated_base(HfApi(), Path(folder), options.license), options.patience)
        facts = transfer(files, repo_id, options)
        if options.public and facts.private:
            logger.warning("%s was there already, and stays private: make it public in its settings", repo_id)
        return facts
    except HubError as refused:
        raise _not_pushed(refused.problems, folder, repo_id, options) from refused
    except Exception as problem:
        if not is_of_the_hub(problem):
            raise
        raise _not_pushed([in_words(problem)], folder, repo_id, options) from problem


def plan_push(folder: str | Path, repo_id: str, *, options: PushOptions) -> list[PlannedFile]:
    """The files that would be pushed, checked: whole, as the run wrote them, with a licence, and without secrets."""
    require_repo_id(repo_id)
    if not Path(folder).is_dir():
        raise ConfigError(Problem("is no folder", "name a run folder or a model folder", path=str(folder)))
    card = licensed_card(Path(folder), options.license, repo_id)
    files = planned_files(Path(folder), card=card)
    check_secrets(files)
    if base := local_base(Path(folder)):
        remedy = "push the base and train on its Hub id, or push the model of hf-finetune merge"
        logger.warning("the adapter loads only where its base is, the folder %s of this machine: %s", base, remedy)
    return files


def checkpoint_pushes(run: Run) -> list[TrainerCallback]:
    """For the Trainer, on every rank: push a checkpoint each `hub.push_every` steps, in the background."""
    if run.hub is None or run.hub.push_every is None:
        return []
    from hf_finetune.release.hub.checkpoints import PushCheckpoints

    return [PushCheckpoints(run.hub)]


def resume_command(folder: str | Path, target: HubSection | PushOptions, repo_id: str | None = None) -> str:
    """The command that pushes `folder` as `target` says; no secret is in it."""
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


def pushed_in_words(facts: PushFacts) -> str:
    """One line for the log."""
    kind = "private" if facts.private else "public"
    sent = f"{facts.sent_files} of {facts.files} files sent, {facts.sent_bytes / 1e6:,.1f} MB"
    if not facts.sent_files:
        sent = f"all {facts.files} files were there already"
    return f"pushed to {facts.url} ({kind}, commit {facts.commit[:12]}): {sent}"


def _not_pushed(problems: object, folder: str | Path, repo_id: str, options: PushOptions) -> NotPushedError:
    command = resume_command(folder, options, repo_id)
    said = [str(problem) for problem in problems]  # type: ignore[attr-defined]
    return NotPushedError([Problem(f"not pushed: {each}; {folder} is complete; to go on: {command}") for each in said])


def _is_main() -> bool:
    return os.environ.get("RANK", "0") == "0"
