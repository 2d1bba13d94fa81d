"""Provenance of the model: pin its Hub revision for the whole run, and record the files that were read."""

from __future__ import annotations

import logging
import os
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from accelerate import PartialState
from accelerate.utils import broadcast_object_list

from hf_finetune.config.sections import ModelSection, Run
from hf_finetune.environment import init_processes
from hf_finetune.errors import ModelError, Problem
from hf_finetune.files import hash_file
from hf_finetune.models.files.locate import find_file, find_weight_files, pin_commits, resolve_commit
from hf_finetune.models.files.stamps import keep_stamps

logger = logging.getLogger(__name__)

# Beside the weights these decide what a model computes and how its tokenizer splits a text.
SMALL_FILES = (
    *("config.json", "generation_config.json", "decision.json"),
    *("adapter_config.json", "adapter_model.safetensors", "base_model.json"),
    *("tokenizer.json", "tokenizer_config.json", "chat_template.jinja", "special_tokens_map.json"),
    *("added_tokens.json", "vocab.json", "vocab.txt", "merges.txt", "tokenizer.model", "spiece.model"),
)
SHA256_DIGITS = 64


def pin_revision(run: Run) -> Run:
    """Return `run` with `model.revision` set to the commit that its Hub branch points to now.

    Everything is then loaded from that one commit, even if the branch moves while the run reads its data, and so are a
    tokenizer and an adapter of the Hub; a folder that changes is refused when it is loaded. The first rank asks, and
    all read what it has found: every rank calls it. The run is returned as it is for a local folder and for
    `model.scratch`.
    """
    init_processes()
    model: ModelSection = broadcast_object_list([run.model])[0]  # an adapter's base is what the first rank has read
    tokenizer = model.tokenizer if isinstance(model.tokenizer, str) else None
    keep_stamps([model.path, model.adapter])
    commits = _pin([(model.path, model.revision), (tokenizer, None), (model.adapter, None)])
    run = run if model == run.model else run.model_copy(update={"model": model})
    commit = None if model.path is None else commits.get((model.path, model.revision))
    if commit is None:
        return run
    if commit != run.model.revision:
        logger.info("%s at %s is commit %s", run.model.path, run.model.revision or "main", commit[:12])
    return run.model_copy(update={"model": run.model.model_copy(update={"revision": commit})})


def pin_scored(run: Run) -> None:
    """Read the model that a run scores, and the base that it is compared with, at one commit each: on every rank.

    The run stays as it is, since its file takes no revision. Every rank calls it.
    """
    init_processes()
    _pin([(run.model.path, None), (run.eval.base if isinstance(run.eval.base, str) else None, None)])


def _pin(asked: Sequence[tuple[str | None, str | None]]) -> dict[tuple[str, str | None], str]:
    """Pin the commit of each Hub id, by name and revision, to what the first rank finds; return the commits.

    What is asked for later, such as an adapter's base, is held to the commit that it has then.
    """
    pin_commits({})
    found = {}
    if PartialState().is_main_process:
        found = {(name, revision): resolve_commit(name, revision) for name, revision in asked if name is not None}
    commits: dict[tuple[str, str | None], str]
    [commits] = broadcast_object_list([{key: commit for key, commit in found.items() if commit is not None}])
    pin_commits(commits, hold=True)
    return commits


def describe_model_source(model: ModelSection) -> dict[str, Any]:
    """Build the `model` part of the manifest: name, commit of a Hub id, sha256 of a folder's files.

    A tokenizer of its own (`model.tokenizer`) gets the same keys under `tokenizer`, and an adapter that is trained on
    under `adapter`; `name` is None for random weights.
    A weight file of the Hub whose sha256 does not match its name in the cache is downloaded once more. Raises
    `ModelError` where it still does not match, or where a file is damaged.
    """
    source: dict[str, Any] = {"name": None, "revision": None, "sha256": {}}
    if model.path is not None:
        source = describe_source(model.path, model.revision)
    if isinstance(model.tokenizer, str):
        source["tokenizer"] = describe_source(model.tokenizer, None)
    if model.adapter is not None:
        source["adapter"] = describe_source(model.adapter, None)
    return source


def describe_source(name: str, revision: str | None) -> dict[str, Any]:
    commit = resolve_commit(name, revision)
    weights = find_weight_files(name, commit)
    if not os.path.isdir(name):
        for path in weights:
            _check_content(name, path, commit)
        return {"name": name, "revision": commit, "sha256": {}}
    small = [path for file in SMALL_FILES if (path := Path(name, file)).is_file()]
    return {
        "name": name,
        "revision": None,
        "sha256": {path.name: hash_file(path) for path in sorted([*small, *weights])},
    }


def _check_content(name: str, path: Path, commit: str | None) -> None:
    """Raise `ModelError` where a downloaded file is not the one that the Hub has, even after a second download."""
    # The cache stores a large file as blobs/<its sha256> and links to it; a small file's blob is a shorter git hash.
    # huggingface_hub 2.4 checks the size of a download and not its content: watch `hf_hub_download` for a hash check.
    expected = path.resolve().name
    if len(expected) != SHA256_DIGITS or hash_file(path) == expected:
        return
    logger.warning("%s of %s is damaged in the cache: downloading it again", path.name, name, extra={"code": "HF511"})
    downloaded = find_file(name, path.name, commit, force_download=True)
    if downloaded is None or hash_file(Path(downloaded)) != expected:
        what = f"{path.name} is not what the Hub says it is"
        raise ModelError(Problem(what, "download the model again", path=name, code="HF501"))
