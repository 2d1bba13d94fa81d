"""The files of an adapter's folder: whether it is one, which base it was trained on, and whether a base is that one."""

from __future__ import annotations

import hashlib
import json
import os
from collections.abc import Iterator
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import torch
from safetensors import safe_open

from hf_finetune.config.paths import looks_local
from hf_finetune.errors import ModelError, Problem
from hf_finetune.models.foreign import check_folder
from hf_finetune.models.stored import stored_file, weight_files, whole_file

ADAPTER_CONFIG = "adapter_config.json"
ADAPTER_WEIGHTS = "adapter_model.safetensors"
BASE_RECORD = "base_model.json"

# What a copy of the same model may say differently.
NOT_IDENTITY = ("_name_or_path", "transformers_version", "torch_dtype", "dtype", "use_cache", "auto_map")
SAMPLED_PLACES = 4
SAMPLED_NUMBERS = 64


@dataclass(frozen=True, slots=True)
class BaseRecord:
    """The base that an adapter was trained on: which it is, and how it was loaded; `base_model.json` holds it."""

    name_or_path: str
    revision: str | None = None
    fingerprint: str | None = None
    """None where the base is not stored as safetensors."""
    dtype: str = "auto"
    quantization: dict[str, Any] | None = None
    """Of transformers' BitsAndBytesConfig; None for a base that was loaded as it is stored."""
    classifier: dict[str, Any] | None = None
    """`id2label`, `problem_type` and `pad_token_id` of the configuration under a classifier's head; None for a language
    model."""


def is_adapter(path: str | Path) -> bool:
    """Whether a folder, or a Hub id that this machine has or can reach, is an adapter and not a model."""
    return stored_file(str(path), ADAPTER_CONFIG) is not None


def adapter_folder(path: str | Path) -> Path:
    """The local folder of an adapter, fetched first where `path` is a Hub id.

    Raises `ModelError` where it is no adapter, has no weights as safetensors (a pickle is not opened), or holds what
    `check_folder` refuses.
    """
    config = stored_file(str(path), ADAPTER_CONFIG)
    if config is None:
        what = f"is not an adapter: there is no {ADAPTER_CONFIG} in it"
        raise ModelError(Problem(what, "name a folder that recipes/lora.py has written", path=str(path)))
    if stored_file(str(path), ADAPTER_WEIGHTS) is None:
        what = f"is an adapter without {ADAPTER_WEIGHTS}"
        raise ModelError(Problem(what, "save it as safetensors; pickled weights are not loaded", path=str(path)))
    check_folder(str(path))
    whole_file(str(path), ADAPTER_WEIGHTS)
    return Path(config).parent


def base_of(path: str | Path) -> str:
    """Name or path of the model that the adapter in `path` was trained on.

    Raises `ModelError` where it names none, or an adapter of the Hub a folder: that is one of another machine.
    """
    config = json.loads((adapter_folder(path) / ADAPTER_CONFIG).read_text(encoding="utf-8"))
    named: str | None = config.get("base_model_name_or_path")
    if not named:
        remedy = "name its base with --base-path"
        raise ModelError(Problem("the adapter does not say which model it was trained on", remedy, path=str(path)))
    return _base_path(named, path)


def read_base_record(path: str | Path, base: str | None = None) -> BaseRecord:
    """What the adapter says about its base; `base`, where given, is the place where that base is now.

    An adapter that others have trained has no record: its base is loaded as it is stored. Of their classifiers
    `classifier` is empty: what it would hold follows from the base and from the weights.
    """
    file = stored_file(str(path), BASE_RECORD)
    if file is not None:
        recorded = json.loads(Path(file).read_text(encoding="utf-8"))
        name = base or _base_path(recorded["name_or_path"], path)
        return BaseRecord(**recorded | {"name_or_path": name, "revision": None if base else recorded["revision"]})
    config = json.loads((adapter_folder(path) / ADAPTER_CONFIG).read_text(encoding="utf-8"))
    return BaseRecord(base or base_of(path), classifier={} if config.get("task_type") == "SEQ_CLS" else None)


def _base_path(named: str, adapter: str | Path) -> str:
    if looks_local(named) and not os.path.isdir(adapter):
        what = f"the adapter was trained on {named!r}, a folder of another machine"
        raise ModelError(Problem(what, "say where its base is now with --base-path", path=str(adapter)))
    return os.path.expanduser(named)


def write_base_record(folder: Path, record: BaseRecord) -> None:
    """Write `record` beside the adapter, and its name into the adapter's own configuration, without the home folder."""
    name = portable(record.name_or_path)
    shown = asdict(record) | {"name_or_path": name}
    (folder / BASE_RECORD).write_text(json.dumps(shown, indent=2) + "\n", encoding="utf-8")
    edit_adapter_config(folder, {"base_model_name_or_path": name})


def edit_adapter_config(folder: Path, changes: dict[str, Any]) -> None:
    file = folder / ADAPTER_CONFIG
    config = json.loads(file.read_text(encoding="utf-8")) | changes
    file.write_text(json.dumps(config, indent=2, sort_keys=True) + "\n", encoding="utf-8")


def portable(name: str) -> str:
    """`name` relative to the working folder where it lies in it, else with the home folder written `~`."""
    path = Path(name)
    for start, sign in ((Path.cwd(), ""), (Path.home(), "~")):
        if path.is_absolute() and path.is_relative_to(start):
            return str(Path(sign) / path.relative_to(start))
    return name


def check_base(record: BaseRecord, adapter: str | Path) -> None:
    """Raise `ModelError` where the base in `record.name_or_path` is another than the adapter was trained on."""
    if record.fingerprint is None or fingerprint(record.name_or_path, record.revision) == record.fingerprint:
        return
    what = f"the adapter was trained on another model than {record.name_or_path!r}: weights or configuration differ"
    raise ModelError(Problem(what, "name the base that it was trained on", path=str(adapter)))


def fingerprint(name: str, revision: str | None = None) -> str | None:
    """Hash the stored configuration and a fixed sample of each stored weight: sha256, 64 hexadecimal digits.

    The files are read, not a loaded model: device, precision and quantisation leave it as it is, and so does a copy
    of the folder. A few kilobytes of each weight are read. None where the weights are not safetensors.
    """
    config, files = stored_file(name, "config.json", revision), weight_files(name, revision)
    if config is None or not files:
        return None
    values = json.loads(Path(config).read_text(encoding="utf-8"))
    kept = {key: value for key, value in values.items() if key not in NOT_IDENTITY}
    digest = hashlib.sha256(json.dumps(kept, sort_keys=True).encode())
    for key, sample in sorted(_samples(files)):
        digest.update(key.encode() + sample)
    return digest.hexdigest()


def _samples(files: list[Path]) -> Iterator[tuple[str, bytes]]:
    for path in files:
        with safe_open(path, framework="pt") as file:
            for key in file.keys():  # noqa: SIM118 (not a dictionary)
                yield key, _sample(file, key)


def _sample(file: Any, key: str) -> bytes:
    """Shape and numbers of one weight: `SAMPLED_NUMBERS` of the last dimension at `SAMPLED_PLACES` of the others."""
    part = file.get_slice(key)
    shape = part.get_shape()
    if not shape:
        return bytes(file.get_tensor(key).to(torch.float32).numpy().tobytes())
    sampled = str(shape).encode()
    for place in range(SAMPLED_PLACES if 0 not in shape else 0):
        corner = [(size - 1) * place // (SAMPLED_PLACES - 1) for size in shape[:-1]]
        row = part[(*(slice(index, index + 1) for index in corner), slice(None))].flatten()
        sampled += row[:: max(1, len(row) // SAMPLED_NUMBERS)].to(torch.float32).numpy().tobytes()
    return sampled
