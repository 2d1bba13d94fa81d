"""Which model a run reads, so that a run that goes on later reads the same one."""

from __future__ import annotations

import hashlib
import logging
import os
from pathlib import Path
from typing import Any

from hf_finetune.config.sections import ModelSection, Run
from hf_finetune.errors import ModelError, Problem
from hf_finetune.models.adapter_files import portable
from hf_finetune.models.stored import commit_of, stored_file, weight_files

logger = logging.getLogger(__name__)

# What beside the weights decides what a model computes, and what its tokenizer writes.
SMALL_FILES = (
    *("config.json", "generation_config.json", "decision.json"),
    *("adapter_config.json", "adapter_model.safetensors", "base_model.json"),
    *("tokenizer.json", "tokenizer_config.json", "chat_template.jinja", "special_tokens_map.json"),
    *("added_tokens.json", "vocab.json", "vocab.txt", "merges.txt", "tokenizer.model", "spiece.model"),
)
SHA256_DIGITS = 64


def pinned(run: Run) -> Run:
    """The run with the commit in `model.revision` that a model of the Hub has now: what is loaded from here on.

    Where the branch moves while a run reads its data, no file of the later commit is taken.
    """
    if run.model.path is None:
        return run
    commit = commit_of(run.model.path, run.model.revision)
    if commit is None:
        return run
    if commit != run.model.revision:
        logger.info("%s at %s is commit %s", run.model.path, run.model.revision or "main", commit[:12])
    return run.model_copy(update={"model": run.model.model_copy(update={"revision": commit})})


def model_source(model: ModelSection) -> dict[str, Any]:
    """The `model` part of the manifest: name, commit of a Hub id, sha256 of the files of a folder; no home folder.

    A tokenizer that is named apart has its own in `tokenizer`; `name` is None for a model from random weights. Files of
    the Hub whose content is not what their name in the cache says are fetched once more; raises `ModelError` where that
    does not help, or a file is damaged.
    """
    source = (
        {"name": None, "revision": None, "sha256": {}} if model.path is None else _source(model.path, model.revision)
    )
    if isinstance(model.tokenizer, str):
        source["tokenizer"] = _source(model.tokenizer, None)
    return source


def _source(name: str, revision: str | None) -> dict[str, Any]:
    commit = commit_of(name, revision)
    weights = weight_files(name, commit)
    if not os.path.isdir(name):
        for path in weights:
            _check_content(name, path, commit)
        return {"name": name, "revision": commit, "sha256": {}}
    small = [path for file in SMALL_FILES if (path := Path(name, file)).is_file()]
    return {
        "name": portable(name),
        "revision": None,
        "sha256": {path.name: _sha256(path) for path in sorted([*small, *weights])},
    }


def _check_content(name: str, path: Path, commit: str | None) -> None:
    """A large file of the Hub lies in the cache under its sha256."""
    expected = path.resolve().name
    if len(expected) != SHA256_DIGITS or _sha256(path) == expected:
        return
    logger.warning("%s of %s is damaged in the cache: it is fetched again", path.name, name)
    again = stored_file(name, path.name, commit, anew=True)
    if again is None or _sha256(Path(again)) != expected:
        what = f"{path.name} is not what the Hub says it is"
        raise ModelError(Problem(what, "fetch the model again", path=name))


def _sha256(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()
