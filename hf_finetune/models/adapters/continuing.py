"""Go on training an adapter that is there: its base, its settings and its weights."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from hf_finetune.config.sections import ModelSection, Run
from hf_finetune.errors import ConfigError, ModelError, Problem
from hf_finetune.files import hash_file
from hf_finetune.models.files.adapter import (
    ADAPTER_CONFIG,
    ADAPTER_WEIGHTS,
    BaseRecord,
    check_base,
    fetch_adapter,
    is_adapter,
    read_base_record,
)
from hf_finetune.models.files.locate import find_file

KEY = "model.adapter"
ALL_LINEAR = "all-linear"


def continue_adapter(run: Run) -> Run:
    """Return `run` with what the adapter in `model.adapter` decides: its base, and the tokenizer in its folder.

    `model.path` says where the base is now, and has to be the same model. Raises `ModelError` for what is no adapter of
    a language model, for a base that is another or not there, and `ConfigError` for settings that contradict it.
    """
    adapter = run.model.adapter
    if adapter is None:
        return run
    folder, record = fetch_adapter(adapter), read_base_record(adapter, run.model.path)
    if record.classifier is not None:
        what = f"{adapter!r} is the adapter of a text classifier, and this recipe trains a language model"
        raise ModelError(Problem(what, "name an adapter that recipes/lora.py has written", key=KEY, code="HF523"))
    _check_base(adapter, record)
    _check_quantization(run.model, record)
    check_settings(folder, run.lora or {})
    tokenizer = run.model.tokenizer
    # Its folder has the tokens and the chat template that it was trained with, which its base may lack.
    if tokenizer is None and find_file(adapter, "tokenizer_config.json") is not None:
        tokenizer = adapter
    decided = {"path": record.name_or_path, "revision": record.revision, "tokenizer": tokenizer}
    return run.model_copy(update={"model": run.model.model_copy(update=decided)})


def _check_base(adapter: str, record: BaseRecord) -> None:
    """Raise `ModelError` where the base is not there, is an adapter itself, or is another model."""
    name, where = record.name_or_path, "say where it is now with model.path"
    if is_adapter(name):
        what = f"the base {name!r} of {adapter!r} is an adapter itself"
        raise ModelError(
            Problem(what, "merge that one, and name the merged model in model.path", key=KEY, code="HF522")
        )
    if find_file(name, "config.json", record.revision) is None:
        raise ModelError(Problem(f"the base {name!r} of {adapter!r} is not there", where, key=KEY, code="HF532"))
    check_base(record, adapter)


def _check_quantization(model: ModelSection, record: BaseRecord) -> None:
    """Raise `ConfigError` where the base would be loaded in other bits than the adapter was trained on."""
    stored = record.quantization or {}
    for bits in ("load_in_4bit", "load_in_8bit"):
        trained, asked = bool(stored.get(bits)), bool(getattr(model, bits))
        if trained != asked:
            what = f"{str(asked).lower()} contradicts the adapter, which was trained with {str(trained).lower()}"
            raise ConfigError(
                Problem(what, f"set model.{bits}: {str(trained).lower()}", key=f"model.{bits}", code="HF589")
            )


def check_settings(folder: Path, lora: Mapping[str, Any]) -> None:
    """Raise `ConfigError` for each setting of `lora:` that is not the adapter's own, with both values.

    `target_modules: all-linear` is compared once the model is there (`check_all_linear`).
    """
    stored = json.loads((folder / ADAPTER_CONFIG).read_text(encoding="utf-8"))
    problems = [
        Problem(
            f"{_format(given)} contradicts the adapter's {_format(stored.get(name))}",
            "leave it out: an adapter that is trained on keeps its settings",
            key=f"lora.{name}",
            code="HF589",
        )
        for name, given in lora.items()
        if given != ALL_LINEAR and _order(given) != _order(stored.get(name))
    ]
    if problems:
        raise ConfigError(problems)


def _order(value: Any) -> Any:
    """Sort a list: the order of names says nothing. Nothing given is nothing stored."""
    # `use_dora: false` and an adapter that stores null agree, and so do ["q_proj", "v_proj"] and ["v_proj", "q_proj"].
    return sorted(value, key=str) if isinstance(value, list | set | tuple) else value or None


def _format(value: Any) -> str:
    return json.dumps(sorted(value, key=str) if isinstance(value, list | set | tuple) else value)


def describe_origin(adapter: str) -> dict[str, str]:
    """Describe the adapter that a run goes on with: where it was, and the hash of its weights."""
    return {"name_or_path": adapter, "sha256": hash_file(fetch_adapter(adapter) / ADAPTER_WEIGHTS)}
