"""The files of a model, in a folder or from the Hub: where they lie, which commit they are, whether they are whole."""

from __future__ import annotations

import json
import logging
import os
from pathlib import Path
from typing import Any

from safetensors import SafetensorError, safe_open
from transformers.utils import SAFE_WEIGHTS_INDEX_NAME, SAFE_WEIGHTS_NAME
from transformers.utils.hub import cached_file

from hf_finetune.errors import ModelError, Problem

logger = logging.getLogger(__name__)

PICKLES = ("*.bin", "*.pt", "*.pth", "*.pkl", "*.pickle", "*.ckpt", "*.h5", "*.msgpack")
MARKS = ("config.json", "adapter_config.json", "tokenizer_config.json")
"""One of these is in every repository of a model, an adapter or a tokenizer."""
SAFETENSORS = (".safetensors", ".safetensors.index.json")


def stored_file(name: str, file: str, revision: str | None = None, *, anew: bool = False) -> str | None:
    """Where a file of a folder or Hub id lies on this machine; None where there is no such file.

    `anew` fetches a file of the Hub again, whatever the cache holds.
    """
    if os.path.isdir(name):
        path = Path(name, file)
        return str(path) if path.exists() else None
    try:
        found: str | None = cached_file(
            name,
            file,
            revision=revision,
            force_download=anew,
            _raise_exceptions_for_missing_entries=False,
            _raise_exceptions_for_connection_errors=False,
            _raise_exceptions_for_gated_repo=False,
        )
    except OSError:  # neither a folder nor the name of anything on the Hub
        return None
    return found


def commit_of(name: str, revision: str | None = None) -> str | None:
    """The commit that a model of the Hub has now, or in the cache of this machine; None for a folder."""
    if os.path.isdir(name):
        return None
    found = (stored_file(name, file, revision) for file in MARKS)
    snapshot = next((Path(file).parent for file in found if file is not None), None)
    return None if snapshot is None else snapshot.name


def weight_files(name: str, revision: str | None = None) -> list[Path]:
    """The safetensors files of a model's weights, each one whole; none where the model has none.

    A file of the Hub that is not whole is fetched once more. Raises `ModelError` for one that stays so, and for an
    index that names files elsewhere or of another kind.
    """
    if stored_file(name, SAFE_WEIGHTS_NAME, revision) is not None:
        return [whole_file(name, SAFE_WEIGHTS_NAME, revision)]
    index = stored_file(name, SAFE_WEIGHTS_INDEX_NAME, revision)
    if index is None:
        return []
    return [whole_file(name, shard, revision) for shard in _shards(Path(index))]


def whole_file(name: str, file: str, revision: str | None = None) -> Path:
    """Where a safetensors file lies, once it has been seen to be whole. Raises `ModelError` where it is missing too."""
    path = stored_file(name, file, revision)
    reason = None if path is None else _broken(path)
    if path is not None and reason is not None and not os.path.isdir(name):
        logger.warning("%s of %s is damaged in the cache (%s): it is fetched again", file, name, reason)
        path = stored_file(name, file, revision, anew=True)
        reason = None if path is None else _broken(path)
    if path is None:
        raise ModelError(Problem(f"has no {file}", "copy or fetch the model again", path=name))
    if reason is not None:
        raise ModelError(
            Problem(f"{file} is damaged or cut short ({reason})", "copy or fetch it again", path=str(Path(name, file)))
        )
    return Path(path)


def refuse_pickles(name: str, revision: str | None = None) -> None:
    """Raise `ModelError` for a model without safetensors, saying what it has instead."""
    if os.path.isdir(name):
        pickles = sorted(path.name for pattern in PICKLES for path in Path(name).glob(pattern))
    else:
        usual = ("pytorch_model.bin.index.json", "pytorch_model.bin")
        pickles = [file for file in usual if stored_file(name, file, revision) is not None]
    if not pickles:
        what, remedy = f"has no {SAFE_WEIGHTS_NAME}", "give a folder or Hub id that holds a model's weights"
    else:
        what = f"has its weights as {pickles[0]}, a pickle, which can run any code when it is opened"
        remedy = "name a revision that has safetensors, or convert it where nothing can be lost: load it with "
        remedy += "transformers and save_pretrained it"
    raise ModelError(Problem(what, remedy, path=name))


def _shards(index: Path) -> list[str]:
    weight_map = (json_of(index) or {}).get("weight_map")
    if not isinstance(weight_map, dict):
        raise ModelError(Problem("is no index of weights", "copy or fetch it again", path=str(index)))
    shards = sorted({str(shard) for shard in weight_map.values()})
    for shard in shards:
        if Path(shard).name != shard or not shard.endswith(".safetensors"):
            what = f"names {shard!r}, which is no safetensors file of this folder"
            raise ModelError(Problem(what, "use a model whose index names its own files", path=str(index)))
    return shards


def _broken(path: str) -> str | None:
    """Why a file cannot be opened as safetensors; its header says how long it has to be."""
    try:
        with safe_open(path, framework="pt"):
            return None
    except (SafetensorError, OSError) as problem:
        return str(problem).strip().splitlines()[0]


def json_of(path: Path) -> dict[str, Any] | None:
    """The object in a JSON file; None where there is none: whoever needs it says so."""
    try:
        values = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError, RecursionError):
        return None
    return values if isinstance(values, dict) else None
