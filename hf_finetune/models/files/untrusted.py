"""Untrusted model folders: refuse settings that would run code, or read a file outside the folder."""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from transformers.models.auto.configuration_auto import CONFIG_MAPPING

from hf_finetune.config.model_files.description import find_faults
from hf_finetune.config.model_files.regular import look_at_file, read_object
from hf_finetune.config.model_files.values import iterate_leaves
from hf_finetune.config.paths import is_missing
from hf_finetune.errors import ModelError, Problem
from hf_finetune.folders import find_altered, leads_out
from hf_finetune.models.files.locate import SAFETENSORS, find_file, resolve_commit

CONFIG = "config.json"
CONFIGS = (CONFIG, "generation_config.json", "tokenizer_config.json", "special_tokens_map.json", "adapter_config.json")

# With a repository's name as value these make transformers download a kernel from there and run it, whatever
# `trust_remote_code` says. `_attn_implementation_internal` did so unasked up to transformers 5.2 (CVE-2026-4372).
KERNELS = ("attn_implementation", "experts_implementation")
# Paths on the machine that saved the model: many repositories have them, and transformers 5.23 does not read them.
IGNORED_PATHS = ("tokenizer_file", "special_tokens_map_file", "added_tokens_file", "tokenizer_config_file")
# Keys that transformers opens as a path: `vocab_file: "../.env"` was read, and pushed with the tokenizer
# (https://github.com/huggingface/transformers/pull/46279).
PATH_ENDINGS = ("_file", "_files", "_dir", "location", "external_data", "transformers_weights")

CODE = "code from a model repository is never run; use a model that needs none"
INSIDE = "only files of the model's own folder are read: use a copy of the model that has all of its files in it"


def check_untrusted_files(name: str, revision: str | None = None) -> str | None:
    """Raise `ModelError`, listing every problem, for a model whose files would run code or read other files.

    `name` is a folder or a Hub id. Returns the commit of a Hub id that was checked, so that the caller can load that
    one; None for a folder, and where the Hub has none: loading then says what is missing. A folder that is not there is
    never asked of the Hub, and a FileNotFoundError, as it would be to transformers.
    """
    if is_missing(name):
        raise FileNotFoundError("no such folder")
    commit = resolve_commit(name, revision)
    folder = find_local_folder(name, commit)
    if folder is None:
        return None
    # What the Hub has is held to a commit, and may be here in part.
    if os.path.isdir(name) and (altered := find_altered(folder, name)):
        raise ModelError(altered)
    problems = [*find_faults(folder, name), *_find_outside_links(folder, name)]
    for file in CONFIGS:
        values = read_object(folder / file) or {}
        found = [*_find_code(values), *_find_wrong_paths(values, folder)]
        problems += [
            Problem(what, remedy, path=str(Path(name, file)), key=key, code=code) for what, remedy, key, code in found
        ]
    config = read_object(folder / CONFIG) or {}
    if "auto_map" in config and str(config.get("model_type")) not in CONFIG_MAPPING:
        what = f"is a model of the kind {config.get('model_type')!r}, which only code of its repository can load"
        problems.append(Problem(what, CODE, path=str(Path(name, CONFIG)), code="HF507"))
    if problems:
        raise ModelError(problems)
    return commit


def find_local_folder(name: str, commit: str | None) -> Path | None:
    """Find the local folder of a model, or the cache's snapshot of a Hub commit, with its configuration files in it."""
    if os.path.isdir(name):
        return Path(name)
    if commit is None:
        return None
    found = [find_file(name, file, commit) for file in CONFIGS]
    return next((Path(file).parent for file in found if file is not None), None)


Found = tuple[str, str, str, str]
"""What is wrong, what to do, the key, and the code."""


def _find_outside_links(folder: Path, name: str) -> Iterator[Problem]:
    """Yield a problem for each link that leaves the folder."""
    for path in sorted([*folder.iterdir(), *folder.glob("additional_chat_templates/*")]):
        if leads_out(path, folder):
            yield Problem(
                "is a link to a file outside the model's folder", INSIDE, path=str(Path(name, path.name)), code="HF508"
            )


def _find_code(values: dict[str, Any]) -> Iterator[Found]:
    """Yield the settings that would run code of a repository; `auto_map` beside a known model type is never used."""
    for keys, value in iterate_leaves(values):
        key = ".".join(keys)
        if keys[-1] == "trust_remote_code" and value is True:
            yield "asks that code from a repository be trusted", CODE, key, "HF507"
        elif any(part.strip("_").removesuffix("_internal") in KERNELS for part in keys) and "/" in str(value):
            yield "names a repository whose code would compute the attention or the experts", CODE, key, "HF507"
        elif keys[-1] == "transformers_weights" and not str(value or SAFETENSORS[0]).endswith(SAFETENSORS):
            yield "names weights that are not safetensors", "only safetensors are loaded", key, "HF506"


def _find_wrong_paths(values: dict[str, Any], folder: Path) -> Iterator[Found]:
    """Yield the settings that name a file outside the model's folder, or in it what is none."""
    for keys, value in iterate_leaves(values):
        last = next((part for part in reversed(keys) if not part.isdigit()), "")
        if not isinstance(value, str) or last in IGNORED_PATHS or not last.endswith(PATH_ENDINGS):
            continue
        path = Path(value)
        if path.is_absolute() or ".." in path.parts or value.startswith("~") or "://" in value or "\\" in value:
            yield f"names {value!r}, which is outside the model's folder", INSIDE, ".".join(keys), "HF508"
        elif os.path.lexists(inside := folder / value):
            # It is inside, and may be a pipe or larger than any: what it is refused for has a code of its own.
            for wrong in look_at_file(inside, value, opened=True):
                yield f"names {value!r}, which {wrong.what}", wrong.remedy, ".".join(keys), wrong.code
