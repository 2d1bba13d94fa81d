"""The folders that a model was trained in: its own, and those of what it was tuned from."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

from hf_finetune.config.model_files.regular import read_object
from hf_finetune.config.paths import is_missing
from hf_finetune.errors import ConfigError
from hf_finetune.folders import CHECKPOINT
from hf_finetune.models.files.adapter import ADAPTER_CONFIG, BASE_RECORD
from hf_finetune.models.files.locate import read_run_file


def iterate_trained_folders(path: str) -> Iterator[Path]:
    """Yield the folder of the model in `path`, then those of its ancestors that are folders of this machine.

    A checkpoint is of the run around it; an adapter, or a merged model, of its base and of the adapter that it went on
    with; a run of the model and adapter that it began with. What is on the Hub has no folder here.
    """
    waiting, done = [Path(path).expanduser()], set()
    while waiting:
        folder = waiting.pop(0)
        if not folder.is_dir() or folder.resolve() in done:
            continue
        done.add(folder.resolve())
        yield folder
        if CHECKPOINT.fullmatch(folder.resolve().name):
            waiting.append(folder.resolve().parent)
        waiting += [Path(name).expanduser() for name in _list_parents(folder)]


def find_gone_origin(path: str) -> str | None:
    """The adapter that the merged model in `path` was made of, where it was a folder that is not there any more."""
    folder = Path(path).expanduser()
    if (folder / ADAPTER_CONFIG).exists():
        return None
    origin = (read_object(folder / BASE_RECORD) or {}).get("started_from")
    name = origin.get("name_or_path") if isinstance(origin, dict) else None
    return name if isinstance(name, str) and is_missing(name) else None


def _list_parents(folder: Path) -> list[str]:
    """The models that the files of a folder name, by name or path."""
    base, adapter = (read_object(folder / name) or {} for name in (BASE_RECORD, ADAPTER_CONFIG))
    model = _read_model_section(folder)
    origin = base.get("started_from")
    named = [base.get("name_or_path"), adapter.get("base_model_name_or_path"), model.get("path"), model.get("adapter")]
    named.append(origin.get("name_or_path") if isinstance(origin, dict) else None)
    return [name for name in named if isinstance(name, str) and name]


def _read_model_section(folder: Path) -> dict[str, Any]:
    """The section `model` of the run file in a folder; {} where there is none that can be read."""
    try:
        model = read_run_file(str(folder)).get("model")
    except (ConfigError, OSError):
        return {}
    return model if isinstance(model, dict) else {}
