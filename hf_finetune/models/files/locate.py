"""Files of a model, in a folder or on the Hub: where they are, at which commit, and whether they are complete."""

from __future__ import annotations

import logging
import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from safetensors import SafetensorError, safe_open
from transformers.utils import SAFE_WEIGHTS_INDEX_NAME, SAFE_WEIGHTS_NAME
from transformers.utils.hub import cached_file, extract_commit_hash

from hf_finetune.config.model_files.regular import read_object
from hf_finetune.config.paths import is_missing
from hf_finetune.config.reading.yaml_reader import read_document
from hf_finetune.errors import ModelError, Problem
from hf_finetune.folders import RUN_FILE
from hf_finetune.folders.exported import ADAPTER_GGUF

logger = logging.getLogger(__name__)

PICKLES = ("*.bin", "*.pt", "*.pth", "*.pkl", "*.pickle", "*.ckpt", "*.h5", "*.msgpack")
REPOSITORY_FILES = ("config.json", "adapter_config.json", "tokenizer_config.json")
"""Every repository of a model, an adapter or a tokenizer has one of these."""
SAFETENSORS = (".safetensors", ".safetensors.index.json")


_commits: dict[tuple[str, str | None], str] = {}
"""The commit that this process reads for a Hub id at a revision, where it was pinned."""


_holding = False
"""Whether a Hub id is pinned to the commit of the first file that is found of it."""


def pin_commits(commits: Mapping[tuple[str, str | None], str], *, hold: bool = False) -> None:
    """From here on read these Hub ids, each at a revision (None: its main branch), at these commits, and no others.

    With `hold` so is each further one, such as an adapter's base, at the commit that it has when it is first asked for.
    """
    global _holding
    _commits.clear()
    _commits.update(commits)
    _holding = hold


def hold_commits() -> None:
    """From here on, as for one command, read all files of a Hub id at one commit, even if its branch moves."""
    pin_commits({}, hold=True)


def find_file(name: str, file: str, revision: str | None = None, *, force_download: bool = False) -> str | None:
    """Find a file of a folder or Hub id on this machine, downloading it if need be; None where there is no such file.

    `force_download` downloads a file of the Hub again, whatever the cache holds.
    """
    if os.path.isdir(name):
        path = Path(name, file)
        return str(path) if path.exists() else None
    if is_missing(name):
        return None
    try:
        # With these private arguments (transformers 5.23) a file that is absent, gated or out of reach is None; watch
        # `cached_file` for public ones.
        found: str | None = cached_file(
            name,
            file,
            revision=_commits.get((name, revision), revision),
            force_download=force_download,
            _raise_exceptions_for_missing_entries=False,
            _raise_exceptions_for_connection_errors=False,
            _raise_exceptions_for_gated_repo=False,
        )
    except OSError:  # neither a folder nor the name of anything on the Hub
        return None
    if _holding and found is not None and (commit := extract_commit_hash(found, None)) is not None:
        _commits.setdefault((name, revision), commit)
    return found


def resolve_commit(name: str, revision: str | None = None) -> str | None:
    """Find the commit that a Hub id has now, or in the cache where the Hub is out of reach; None for a folder."""
    if os.path.isdir(name):
        return None
    found = (find_file(name, file, revision) for file in REPOSITORY_FILES)
    snapshot = next((Path(file).parent for file in found if file is not None), None)
    return None if snapshot is None else snapshot.name


def find_weight_files(name: str, revision: str | None = None) -> list[Path]:
    """Find the safetensors files of a model, each checked to be complete; [] where the model has none.

    A damaged file of the Hub is downloaded once more. Raises `ModelError` for one that stays damaged, and for an index
    that names files of another folder or format.
    """
    if find_file(name, SAFE_WEIGHTS_NAME, revision) is not None:
        return [find_complete_file(name, SAFE_WEIGHTS_NAME, revision)]
    index = find_file(name, SAFE_WEIGHTS_INDEX_NAME, revision)
    if index is None:
        return []
    return [find_complete_file(name, shard, revision) for shard in _read_shard_names(Path(index))]


def find_complete_file(name: str, file: str, revision: str | None = None) -> Path:
    """Find a safetensors file and check that it is complete. Raises `ModelError` where it is damaged or missing."""
    path = find_file(name, file, revision)
    reason = None if path is None else _find_damage(path)
    if path is not None and reason is not None and not os.path.isdir(name):
        logger.warning(
            "%s of %s is damaged in the cache (%s): downloading it again", file, name, reason, extra={"code": "HF511"}
        )
        path = find_file(name, file, revision, force_download=True)
        reason = None if path is None else _find_damage(path)
    if path is None:
        raise ModelError(Problem(f"has no {file}", "copy or fetch the model again", path=name, code="HF001"))
    if reason is not None:
        raise ModelError(
            Problem(
                f"{file} is damaged or cut short ({reason})",
                "copy or fetch it again",
                path=str(Path(name, file)),
                code="HF501",
            )
        )
    return Path(path)


def refuse_pickles(name: str, revision: str | None = None) -> None:
    """Raise `ModelError` for a model without safetensors weights, naming the pickle that it has instead."""
    if os.path.isdir(name):
        pickles = sorted(path.name for pattern in PICKLES for path in Path(name).glob(pattern))
    else:
        usual = ("pytorch_model.bin.index.json", "pytorch_model.bin")
        pickles = [file for file in usual if find_file(name, file, revision) is not None]
    if Path(name, ADAPTER_GGUF).is_file():
        # Such an export is whole: nothing of it is missing that could be found.
        what = f"is an adapter for llama.cpp alone ({ADAPTER_GGUF}), which puts it over its base"
        remedy, code = "name the run or adapter that it was exported from", "HF972"
    elif not pickles:
        # Of no weights at all nothing is refused: there is no such file, as of a name that was misspelled.
        what, remedy = f"has no {SAFE_WEIGHTS_NAME}", "give a folder or Hub id that holds a model's weights"
        code = "HF001"
    else:
        what = f"has its weights as {pickles[0]}, a pickle, which can run any code when it is opened"
        remedy = "name a revision that has safetensors, or convert it where nothing can be lost: load it with "
        remedy += "transformers and save_pretrained it"
        code = "HF506"
    raise ModelError(Problem(what, remedy, path=name, code=code))


def _read_shard_names(index: Path) -> list[str]:
    """The files that a weight index names. Raises `ModelError` where one is no safetensors file of the same folder."""
    # {"weight_map": {"a.weight": "model-00001-of-00002.safetensors", "b.weight": "model-00002-of-00002.safetensors"}}
    weight_map = (read_object(index) or {}).get("weight_map")
    if not isinstance(weight_map, dict):
        raise ModelError(Problem("is no index of weights", "copy or fetch it again", path=str(index), code="HF501"))
    shards = sorted({str(shard) for shard in weight_map.values()})
    for shard in shards:
        if Path(shard).name != shard or not shard.endswith(".safetensors"):
            what = f"names {shard!r}, which is no safetensors file of this folder"
            raise ModelError(
                Problem(what, "use a model whose index names its own files", path=str(index), code="HF508")
            )
    return shards


def _find_damage(path: str) -> str | None:
    """Why a file cannot be opened as safetensors, or None; its header states its length, so that a cut file shows."""
    try:
        with safe_open(path, framework="pt"):
            return None
    except (SafetensorError, OSError) as problem:
        return str(problem).strip().splitlines()[0]


def read_run_file(name: str) -> dict[str, Any]:
    """Read the run.yaml beside a model, a folder or Hub id; {} where there is none.

    Raises `ConfigError` where it is torn.
    """
    file = find_file(name, RUN_FILE)
    return {} if file is None else dict(read_document(file).values)


def read_trained_labels(path: str) -> dict[str, str]:
    """Read `data.labels` of the run in a model's folder; {} where it has none, or the folder is of no run."""
    data = read_run_file(path).get("data")
    names = data.get("labels") if isinstance(data, dict) else None
    return {label: str(name) for label, name in names.items()} if isinstance(names, dict) else {}
