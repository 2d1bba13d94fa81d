"""Files of an adapter's folder: its base model, recorded when it is saved and checked when it is loaded."""

from __future__ import annotations

import hashlib
import json
import os
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import torch
from safetensors import safe_open

from hf_finetune.config.model_files.regular import read_object
from hf_finetune.config.paths import looks_local
from hf_finetune.errors import ModelError, Problem
from hf_finetune.models.files.locate import find_complete_file, find_file, find_weight_files
from hf_finetune.models.files.untrusted import check_untrusted_files
from hf_finetune.privacy import make_portable

ADAPTER_CONFIG = "adapter_config.json"
ADAPTER_WEIGHTS = "adapter_model.safetensors"
BASE_RECORD = "base_model.json"

# Keys of config.json that may differ between copies of one model.
NOT_IDENTITY = ("_name_or_path", "transformers_version", "torch_dtype", "dtype", "use_cache", "auto_map")
SAMPLED_PLACES = 4
SAMPLED_NUMBERS = 64


@dataclass(frozen=True, slots=True)
class BaseRecord:
    """The base model of an adapter and how it was loaded for training; stored as `base_model.json`."""

    name_or_path: str
    revision: str | None = None
    fingerprint: str | None = None
    """Of its files (`compute_fingerprint`); None where the base is not stored as safetensors."""
    dtype: str = "auto"
    quantization: dict[str, Any] | None = None
    """`BitsAndBytesConfig.to_dict()`; None for a base that was loaded in the precision of its files."""
    classifier: dict[str, Any] | None = None
    """`id2label`, `problem_type` and `pad_token_id` of the configuration under a classifier's head; None for a language
    model."""
    vocab_size: int | None = None
    """Rows of the embedding where they are more than in the base's files: a chat template has added tokens."""
    started_from: dict[str, str] | None = None
    """`name_or_path` and the weights' `sha256` of the adapter that training went on with; None for a new one."""
    tokenizer_probe: list[int] | None = None
    """Ids of a sentence (`tokenizer_probe`), by which another tokenizer is told; None where training had none."""


def is_adapter(path: str | Path) -> bool:
    """Whether a folder, or a Hub id that is cached or can be reached, is an adapter and not a model."""
    return find_file(str(path), ADAPTER_CONFIG) is not None


def fetch_adapter(path: str | Path) -> Path:
    """Return the local folder of an adapter, downloaded first where `path` is a Hub id.

    Raises `ModelError` where it is no adapter or not LoRA, has no safetensors weights (a pickle is not opened), is
    damaged, or holds settings that `check_untrusted_files` refuses.
    """
    config = find_file(str(path), ADAPTER_CONFIG)
    if config is None:
        what = f"is not an adapter: there is no {ADAPTER_CONFIG} in it"
        raise ModelError(Problem(what, "name a folder that recipes/lora.py has written", path=str(path), code="HF531"))
    check_untrusted_files(str(path))
    if find_file(str(path), ADAPTER_WEIGHTS) is None:
        what = f"is an adapter without {ADAPTER_WEIGHTS}"
        raise ModelError(
            Problem(what, "save it as safetensors; pickled weights are not loaded", path=str(path), code="HF506")
        )
    kind = (read_object(Path(config)) or {}).get("peft_type")
    if kind != "LORA":
        what = f"is an adapter of the kind {kind}"
        raise ModelError(Problem(what, "only LoRA's are loaded and merged", path=str(path), code="HF531"))
    find_complete_file(str(path), ADAPTER_WEIGHTS)
    return Path(config).parent


def read_base_name(path: str | Path) -> str:
    """Read the name or path of the model that the adapter in `path` was trained on.

    Raises `ModelError` where it names none, or where an adapter of the Hub names a folder: it is on another machine.
    """
    config = json.loads((fetch_adapter(path) / ADAPTER_CONFIG).read_text(encoding="utf-8"))
    named: str | None = config.get("base_model_name_or_path")
    if not named:
        remedy = "name its base with --base-path"
        raise ModelError(
            Problem("the adapter does not say which model it was trained on", remedy, path=str(path), code="HF533")
        )
    return _resolve_base(named, path)


def read_base_record(path: str | Path, base: str | None = None) -> BaseRecord:
    """Read which base the adapter in `path` has; `base`, where given, is that model's folder or Hub id today.

    An adapter from another tool has no record: its base is loaded in the precision of its files. If it is a classifier,
    `classifier` is {}, to be filled from the base and the weights (`read_adapter_record`). Raises `ModelError` where
    the adapter names no base, or a folder of another machine.
    """
    file = find_file(str(path), BASE_RECORD)
    if file is not None:
        recorded = json.loads(Path(file).read_text(encoding="utf-8"))
        name = base or _resolve_base(recorded["name_or_path"], path)
        return BaseRecord(**recorded | {"name_or_path": name, "revision": None if base else recorded["revision"]})
    config = json.loads((fetch_adapter(path) / ADAPTER_CONFIG).read_text(encoding="utf-8"))
    classifier: dict[str, Any] | None = {} if config.get("task_type") == "SEQ_CLS" else None
    if base is None:
        return BaseRecord(read_base_name(path), classifier=classifier)
    try:  # the base that it names, if that is there, has to be the one that `base` names
        fingerprint = compute_fingerprint(read_base_name(path))
    except ModelError:
        fingerprint = None
    return BaseRecord(base, fingerprint=fingerprint, classifier=classifier)


def _resolve_base(named: str, adapter: str | Path) -> str:
    if looks_local(named) and not os.path.isdir(adapter):
        what = f"the adapter was trained on {named!r}, a folder of another machine"
        raise ModelError(Problem(what, "say where its base is now with --base-path", path=str(adapter), code="HF532"))
    return os.path.expanduser(named)


def write_base_record(folder: Path, record: BaseRecord) -> None:
    """Write `record` beside an adapter, and the base's name into its adapter_config.json; no home folder in either.

    Beside a merged model, which has no such file, it says what that was tuned from.
    """
    name = make_portable(record.name_or_path)
    values = asdict(record) | {"name_or_path": name}
    if record.started_from is not None:
        values["started_from"] |= {"name_or_path": make_portable(record.started_from["name_or_path"])}
    (folder / BASE_RECORD).write_text(json.dumps(values, indent=2) + "\n", encoding="utf-8")
    if (folder / ADAPTER_CONFIG).exists():
        edit_adapter_config(folder, {"base_model_name_or_path": name})


def edit_adapter_config(folder: Path, changes: dict[str, Any]) -> None:
    """Overwrite these keys of the adapter_config.json in `folder`."""
    file = folder / ADAPTER_CONFIG
    config = json.loads(file.read_text(encoding="utf-8")) | changes
    file.write_text(json.dumps(config, indent=2, sort_keys=True) + "\n", encoding="utf-8")


def check_base(record: BaseRecord, adapter: str | Path) -> None:
    """Raise `ModelError` where the base in `record.name_or_path` is not the one that the adapter was trained on."""
    if record.fingerprint is None or compute_fingerprint(record.name_or_path, record.revision) == record.fingerprint:
        return
    what = f"the adapter was trained on another model than {record.name_or_path!r}: weights or configuration differ"
    raise ModelError(Problem(what, "name the base that it was trained on", path=str(adapter), code="HF536"))


@contextmanager
def check_base_around(record: BaseRecord, adapter: str | Path) -> Iterator[None]:
    """`check_base` before a base is loaded, and after: its files may change while they are read."""
    if find_weight_files(record.name_or_path, record.revision):  # else loading says why it cannot be
        check_base(record, adapter)
    yield
    check_base(record, adapter)


def compute_fingerprint(name: str, revision: str | None = None) -> str | None:
    """Hash the stored configuration and a fixed sample of each stored weight: sha256, 64 hexadecimal digits.

    The hash is of the files and not of a loaded model: device, precision and quantization do not change it, nor does
    copying the folder. A few kilobytes of each weight are read. None where the weights are not safetensors. Raises
    `ModelError` where a weight file is damaged.
    """
    config, files = find_file(name, "config.json", revision), find_weight_files(name, revision)
    if config is None or not files:
        return None
    values = json.loads(Path(config).read_text(encoding="utf-8"))
    kept = {key: value for key, value in values.items() if key not in NOT_IDENTITY}
    return _hash_samples(files, json.dumps(kept, sort_keys=True).encode())


def compute_weights_fingerprint(name: str) -> str | None:
    """As `compute_fingerprint`, of the weights in a folder alone; None where there are none."""
    files = find_weight_files(name)
    return _hash_samples(files) if files else None


def _hash_samples(files: list[Path], before: bytes = b"") -> str:
    digest = hashlib.sha256(before)
    for key, sample in sorted(_read_samples(files)):
        digest.update(key.encode() + sample)
    return digest.hexdigest()


def _read_samples(files: list[Path]) -> Iterator[tuple[str, bytes]]:
    for path in files:
        with safe_open(path, framework="pt") as file:
            for key in file.keys():  # noqa: SIM118 (not a dictionary)
                yield key, _read_sample(file, key)


def _read_sample(file: Any, key: str) -> bytes:
    """Shape and a fixed sample of one weight (any shape) as float32 bytes: some numbers of a few of its rows."""
    # Of a weight (4096, 1024) every 16th number of rows 0, 1365, 2730 and 4095; of a bias (1024,), which is one row,
    # every 16th number, four times over. Changing this orphans the fingerprints of all saved adapters.
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
