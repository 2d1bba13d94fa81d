"""What a model's folder may say: nothing in it runs code, and nothing in it reads a file outside it."""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from transformers.models.auto.configuration_auto import CONFIG_MAPPING

from hf_finetune.errors import ModelError, Problem
from hf_finetune.models.stored import SAFETENSORS, commit_of, json_of, stored_file

CONFIG = "config.json"
CONFIGS = (CONFIG, "generation_config.json", "tokenizer_config.json", "special_tokens_map.json", "adapter_config.json")

# With a repository's name as value these make transformers fetch a kernel from there and run it.
KERNELS = ("attn_implementation", "experts_implementation")
# Paths on the machine of whoever saved the model: many files of the Hub have them, and nothing reads them.
LEFT_BEHIND = ("tokenizer_file", "special_tokens_map_file", "added_tokens_file", "tokenizer_config_file")
PATH_ENDINGS = ("_file", "_files", "_dir", "location", "external_data", "transformers_weights")

CODE = "code from a model repository is never run; use a model that needs none"
INSIDE = "only files of the model's own folder are read: use a copy of the model that has all of its files in it"


def check_folder(name: str, revision: str | None = None) -> str | None:
    """Raise `ModelError`, with all that is wrong, for a model whose files would have code run or other files read.

    `name` is a folder or a Hub id, of which the commit is returned that was looked at; one that is not there is left to
    whoever loads it.
    """
    commit = commit_of(name, revision)
    folder = folder_of(name, commit)
    if folder is None:
        return None
    problems = [*_links(folder, name)]
    for file in CONFIGS:
        values = json_of(folder / file) or {}
        found = [*_code(values), *_paths(values)]
        problems += [Problem(what, remedy, path=str(Path(name, file)), key=key) for what, remedy, key in found]
    config = json_of(folder / CONFIG) or {}
    if "auto_map" in config and config.get("model_type") not in CONFIG_MAPPING:
        what = f"is a model of the kind {config.get('model_type')!r}, which only code of its repository can load"
        problems.append(Problem(what, CODE, path=str(Path(name, CONFIG))))
    if problems:
        raise ModelError(problems)
    return commit


def folder_of(name: str, commit: str | None) -> Path | None:
    """The local folder of a folder, or of a commit of a Hub id with the small files in it that are read first."""
    if os.path.isdir(name):
        return Path(name)
    if commit is None:
        return None
    found = [stored_file(name, file, commit) for file in CONFIGS]
    return next((Path(file).parent for file in found if file is not None), None)


Found = tuple[str, str, str]
"""What is wrong, what to do, and the key."""


def _links(folder: Path, name: str) -> Iterator[Problem]:
    """Files that lie elsewhere; in the Hub's cache those of a commit are links to the blobs of its repository."""
    home = folder.resolve()
    if home.parent.name == "snapshots":
        home = home.parent.parent
    for path in sorted([*folder.iterdir(), *folder.glob("additional_chat_templates/*")]):
        if path.is_symlink() and not path.resolve().is_relative_to(home):
            yield Problem("is a link to a file outside the model's folder", INSIDE, path=str(Path(name, path.name)))


def _code(values: dict[str, Any]) -> Iterator[Found]:
    """What would have code of a repository run; `auto_map` beside a model type that is known is passed over."""
    for keys, value in _leaves(values):
        key = ".".join(keys)
        if keys[-1] == "trust_remote_code" and value is True:
            yield "asks that code from a repository be trusted", CODE, key
        elif any(part.strip("_").removesuffix("_internal") in KERNELS for part in keys) and "/" in str(value):
            yield "names a repository whose code would compute the attention or the experts", CODE, key
        elif keys[-1] == "transformers_weights" and not str(value or SAFETENSORS[0]).endswith(SAFETENSORS):
            yield "names weights that are not safetensors", "only safetensors are loaded", key


def _paths(values: dict[str, Any]) -> Iterator[Found]:
    for keys, value in _leaves(values):
        last = next((part for part in reversed(keys) if not part.isdigit()), "")
        if not isinstance(value, str) or last in LEFT_BEHIND or not last.endswith(PATH_ENDINGS):
            continue
        path = Path(value)
        if path.is_absolute() or ".." in path.parts or value.startswith("~") or "://" in value or "\\" in value:
            yield f"names {value!r}, which is outside the model's folder", INSIDE, ".".join(keys)


def _leaves(values: dict[str, Any]) -> Iterator[tuple[tuple[str, ...], Any]]:
    """Every value that is no list and no object, with the keys that lead to it."""
    rest: list[tuple[tuple[str, ...], Any]] = [((), values)]
    while rest:
        keys, value = rest.pop()
        if isinstance(value, dict):
            rest += [((*keys, str(key)), inner) for key, inner in value.items()]
        elif isinstance(value, list):
            rest += [((*keys, str(number)), inner) for number, inner in enumerate(value)]
        else:
            yield keys, value
