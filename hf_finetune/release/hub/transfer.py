"""Planned files -> one commit on the Hub, with the head that it was compared with as its parent.

Weights are uploaded first, each once: they stay in the Hub's storage, so that an interrupted push resumes where it was.
Nothing of it is visible before the one commit that names all files.
"""

from __future__ import annotations

import logging
from collections.abc import Sequence
from dataclasses import asdict, dataclass, replace
from typing import Any

from huggingface_hub import CommitOperationAdd, CommitOperationDelete, HfApi, constants
from huggingface_hub.errors import HfHubHTTPError, RepositoryNotFoundError, RevisionNotFoundError
from huggingface_hub.hf_api import ModelInfo

from hf_finetune.errors import HubError, Problem
from hf_finetune.folders import EXPORT
from hf_finetune.release.hub.exports import ALL_WRITTEN
from hf_finetune.release.hub.files import MODEL_FILES, PlannedFile
from hf_finetune.release.hub.retries import (
    PATIENCE,
    UnreadableAnswer,
    call_with_retries,
    describe_error,
    get_http_status,
)

logger = logging.getLogger(__name__)

MESSAGE = "Upload a model trained with hf-finetune"
CONFLICTS = (409, 412)


@dataclass(frozen=True, slots=True)
class PushOptions:
    """What a push may do; `patience` is in seconds per request."""

    public: bool = False
    """Create a public repository, and accept one that is public already."""
    revision: str | None = None
    """A branch, created if it does not exist; by default main."""
    create_pr: bool = False
    message: str = MESSAGE
    license: str | None = None
    """Replaces the license in the pushed card."""
    patience: float = PATIENCE


@dataclass(frozen=True, slots=True)
class PushResult:
    """What is on the Hub after a push, and which part of it was sent."""

    repo_id: str
    url: str
    commit: str
    private: bool
    files: int
    bytes: int
    sent_files: int
    sent_bytes: int
    removed: tuple[str, ...] = ()

    def as_dict(self) -> dict[str, Any]:
        return asdict(self)


@dataclass(frozen=True, slots=True)
class _Difference:
    head: str
    private: bool
    changed: list[PlannedFile]
    removed: list[str]


def transfer(files: Sequence[PlannedFile], repo_id: str, options: PushOptions) -> PushResult:
    """Make `repo_id` hold `files` with one commit at most, and check afterwards that it does.

    Model files that the repository has and `files` lacks are removed, since they would be loaded. Raises the exceptions
    of huggingface_hub if the Hub refuses, and `HubError` if the repository is public and `options` are not, or if it
    does not hold what was sent.
    """
    api = HfApi(library_name="hf-finetune")
    difference = first = _compare(api, repo_id, files, options)
    url = f"{constants.ENDPOINT}/{repo_id}"
    commit = difference.head
    for attempt in (1, 2):
        if not difference.changed and not difference.removed:
            break
        try:
            commit, url = _commit(api, repo_id, difference, options)
            break
        except UnreadableAnswer as problem:
            # What answers so may have taken the commit all the same.
            difference = _compare_after(problem, api, repo_id, files, options)
            commit = difference.head
            break
        except HfHubHTTPError as problem:
            # The head has moved, by a commit of others or by ours whose answer was lost: comparing again shows which.
            if get_http_status(problem) not in CONFLICTS or attempt == 2:
                raise
            logger.info("%s; comparing with the repository again", describe_error(problem).what)
            difference = _compare(api, repo_id, files, options)
            commit = difference.head
    if difference.changed or difference.removed:
        _check_arrived(api, repo_id, files, commit, options)
    sent = first.changed
    return PushResult(
        repo_id=repo_id,
        url=url,
        commit=commit,
        private=first.private,
        files=len(files),
        bytes=sum(file.size for file in files),
        sent_files=len(sent),
        sent_bytes=sum(file.size for file in sent),
        removed=tuple(first.removed),
    )


def _compare(api: HfApi, repo_id: str, files: Sequence[PlannedFile], options: PushOptions) -> _Difference:
    """Find which of `files` the head of the branch lacks; repository and branch are created if they do not exist."""
    info = call_with_retries(lambda: _open_repository(api, repo_id, options), options.patience)
    if not info.private and not options.public:
        what = f"{repo_id} is public, and what is pushed there everybody can read"
        raise HubError(
            Problem(what, "allow it with --public (run file: hub.private: false), or name another one", code="HF804")
        )
    there = {sibling.rfilename: sibling for sibling in info.siblings or []}
    changed = [file for file in files if not _is_same(file, there.get(file.name))]
    planned = {file.name for file in files}
    # Without its record a file of such a name is of whoever put it there.
    exported = ALL_WRITTEN if EXPORT in there else frozenset()
    decide = {name for name in there if MODEL_FILES.fullmatch(name) or name in exported}
    removed = sorted(decide - planned)
    return _Difference(str(info.sha), bool(info.private), changed, removed)


def _compare_after(
    problem: UnreadableAnswer, api: HfApi, repo_id: str, files: Sequence[PlannedFile], options: PushOptions
) -> _Difference:
    """Compare again after an answer to the commit that nobody understands; raises it where that is not there."""
    try:
        difference = _compare(api, repo_id, files, options)
    except (HubError, HfHubHTTPError):
        raise problem from None
    if difference.changed or difference.removed:
        raise problem
    return difference


def _open_repository(api: HfApi, repo_id: str, options: PushOptions) -> ModelInfo:
    try:
        return api.model_info(repo_id, revision=options.revision, files_metadata=True)
    except RevisionNotFoundError:
        if options.create_pr or options.revision is None:
            raise
        api.create_branch(repo_id, branch=options.revision, exist_ok=True)
    except RepositoryNotFoundError:
        if options.create_pr:
            raise
        api.create_repo(repo_id, private=not options.public, exist_ok=True)
        if options.revision not in (None, constants.DEFAULT_REVISION):
            api.create_branch(repo_id, branch=str(options.revision), exist_ok=True)
    return api.model_info(repo_id, revision=options.revision, files_metadata=True)


def _is_same(file: PlannedFile, there: Any) -> bool:
    # The Hub lists large files by sha256 and all others by the id of their blob in git.
    if there is None:
        return False
    if there.lfs is not None:
        return bool(there.lfs.sha256 == file.sha256)
    return bool(there.blob_id == file.compute_git_oid())


def _commit(api: HfApi, repo_id: str, difference: _Difference, options: PushOptions) -> tuple[str, str]:
    """Upload the large files one by one, then commit all; returns the commit and its URL."""
    additions = [_make_addition(file) for file in difference.changed]
    large = [addition for addition in additions if not isinstance(addition.path_or_fileobj, bytes)]
    _upload(api, repo_id, [addition for addition in additions if addition not in large], options)
    # One by one: an interrupted push then sends again only the file that was on its way, and one refused file stops it.
    # huggingface_hub 2.4's `create_commit` alone goes on with the others after a refusal: 18 requests in
    # benchmarks/hub_faults.py, 16 with `num_threads=1`, which have to be 0. The loop can go when it stops there.
    for addition in large:
        logger.info("sending %s (%.1f MB)", addition.path_in_repo, addition.upload_info.size / 1e6)
        _upload(api, repo_id, [addition], options)
    deletions = [CommitOperationDelete(name, is_folder=False) for name in difference.removed]

    def commit() -> tuple[str, str]:
        made = api.create_commit(
            repo_id,
            [*additions, *deletions],
            commit_message=options.message,
            revision=options.revision,
            create_pr=options.create_pr,
            parent_commit=difference.head,
        )
        return made.oid, made.pr_url or f"{constants.ENDPOINT}/{repo_id}"

    try:
        # Not retried for a pull request: if only the answer was lost, there would be two of them.
        return call_with_retries(commit, 0.0 if options.create_pr else options.patience)
    except UnreadableAnswer as problem:
        pages = "discussions" if options.create_pr else f"commits/{options.revision or constants.DEFAULT_REVISION}"
        remedy = f"look at {constants.ENDPOINT}/{repo_id}/{pages} whether the commit is there"
        raise UnreadableAnswer([replace(each, remedy=remedy) for each in problem.problems]) from problem


def _upload(api: HfApi, repo_id: str, additions: list[CommitOperationAdd], options: PushOptions) -> None:
    """Upload files into the large-file storage if the Hub wants them there; small ones are part of the commit."""

    def upload() -> None:
        api.preupload_lfs_files(repo_id, additions, revision=options.revision, create_pr=options.create_pr)

    if additions:
        call_with_retries(upload, options.patience)


def _make_addition(file: PlannedFile) -> CommitOperationAdd:
    addition = CommitOperationAdd(file.name, file.path if file.content is None else file.content)
    # The hash of the file as it was checked, which huggingface_hub would compute again, of what is there by now.
    addition.upload_info.sha256 = bytes.fromhex(file.sha256)
    return addition


def _check_arrived(api: HfApi, repo_id: str, files: Sequence[PlannedFile], commit: str, options: PushOptions) -> None:
    """Raise `HubError` if the commit lacks one of `files` or holds it otherwise."""
    # huggingface_hub leaves out what a .gitignore on the Hub excludes, and only logs it:
    # https://github.com/huggingface/huggingface_hub/pull/1868
    info = call_with_retries(lambda: api.model_info(repo_id, revision=commit, files_metadata=True), options.patience)
    there = {sibling.rfilename: sibling for sibling in info.siblings or []}
    missing = [file.name for file in files if not _is_same(file, there.get(file.name))]
    if missing:
        what = f"{repo_id} does not hold {', '.join(missing)} as sent"
        raise HubError(
            Problem(
                what, "look whether a .gitignore or .gitattributes there leaves them out, and push again", code="HF810"
            )
        )
