"""A configuration of which no model can be built: which key of its config.json is at fault, and why."""

from __future__ import annotations

import logging
import time
import warnings
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch
from huggingface_hub.errors import StrictDataclassError
from transformers import CONFIG_MAPPING, PreTrainedConfig, PreTrainedModel

from hf_finetune.config.model_files.description import CONFIG
from hf_finetune.config.model_files.regular import read_object
from hf_finetune.config.model_files.values import CORRECT
from hf_finetune.config.reading.document import format_value
from hf_finetune.errors import ModelError, Problem
from hf_finetune.models.files.foreign_errors import ForeignError, foreign_errors, shorten_reason
from hf_finetune.models.files.locate import find_file

SECONDS = 5.0
"""For finding the key: the largest models take a second to be built without memory."""
# What these say is written for a reader; of the others it is a number, or the value that was not found.
_SAY_WHY = (ValueError, TypeError, StrictDataclassError)

Build = Callable[[Mapping[str, Any]], object]


def check_config(name: str, commit: str | None) -> None:
    """Raise `ModelError` for the config.json of a folder or Hub id that is of a known kind, and no configuration."""
    values = _read(name, commit)
    kind = values.get("model_type")
    if isinstance(kind, str) and kind in CONFIG_MAPPING:
        try:
            with _quiet(), foreign_errors():
                _make_config(values)
        except ForeignError as refused:
            raise _explain(refused, values, _make_config, name) from refused


def build_empty(auto_class: Any, name: str, commit: str | None, config: PreTrainedConfig) -> PreTrainedModel:
    """Build a model of `config`, which is that of `name`, without memory. Raises `ModelError` with the key at fault."""
    try:
        with foreign_errors():
            return _make_empty(auto_class, config)
    except ForeignError as refused:
        values = _read(name, commit)
        raise _explain(refused, values, lambda some: _make_empty(auto_class, _make_config(some)), name) from refused


def _read(name: str, commit: str | None) -> Mapping[str, Any]:
    path = find_file(name, CONFIG, commit)
    if path is None or read_object(Path(path)) is None:
        return {}
    # Not the object as it stands: {"__float__": "Infinity"} is a number to transformers.
    values: Mapping[str, Any] = PreTrainedConfig.get_config_dict(str(Path(path).parent))[0]
    return values


def _make_config(values: Mapping[str, Any]) -> PreTrainedConfig:
    made: PreTrainedConfig = CONFIG_MAPPING[str(values["model_type"])].from_dict(dict(values))
    return made


def _make_empty(auto_class: Any, config: PreTrainedConfig) -> PreTrainedModel:
    with torch.device("meta"):
        built: PreTrainedModel = auto_class.from_config(config, trust_remote_code=False)
    return built


def _explain(refused: ForeignError, values: Mapping[str, Any], build: Build, name: str) -> ModelError:
    cause = refused.__cause__
    key = _find_key(cause, values, build)
    why = shorten_reason(str(cause).rpartition("Error: ")[2]) if isinstance(cause, _SAY_WHY) else ""
    what = f"no model can be built of it{why and f' ({why})'}"
    if key is not None:
        reason = f" ({why})" if why else ": no model can be built with it"
        what = f"{format_value(_look_up(values, key))} cannot be used{reason}"
    return ModelError(Problem(what, CORRECT, path=str(Path(name, CONFIG)), key=key, code="HF504"))


def _find_key(cause: BaseException | None, values: Mapping[str, Any], build: Build) -> str | None:
    """The key without which, or with the value that it has where nothing is said, `build` works; None for several."""
    # First the keys whose values the library names: "KeyError: 'os.system'" of a `hidden_act`.
    named = str(cause)
    keys = sorted(
        values.keys() - {"model_type"}, key=lambda key: (key not in named, str(values[key]) not in named, key)
    )
    until = time.monotonic() + SECONDS
    for key in keys:
        if time.monotonic() > until:
            return None
        try:
            with _quiet(), foreign_errors():
                build({other: value for other, value in values.items() if other != key})
        except (ForeignError, OSError):
            continue
        return _find_inside(cause, key, values[key])
    return None


def _find_inside(cause: BaseException | None, key: str, value: Any) -> str:
    """The key inside a section whose value a KeyError names: `rope_scaling.rope_type`; else the section's own."""
    inside = value.items() if isinstance(value, dict) and isinstance(cause, KeyError) else ()
    return next((f"{key}.{name}" for name, each in inside if [each] == [*cause.args]), key) if cause else key


def _look_up(values: Mapping[str, Any], key: str) -> Any:
    section, _, inside = key.partition(".")
    return values[section][inside] if inside and key not in values else values[key]


@contextmanager
def _quiet() -> Iterator[None]:
    """Hide what transformers says of a configuration that is only tried: loading it says it again."""
    before = logging.root.manager.disable
    logging.disable(logging.WARNING)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            yield
    finally:
        logging.disable(before)
