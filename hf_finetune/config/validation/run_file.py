"""The whole run file as one pydantic model, and the validation of a document against it."""

from __future__ import annotations

import copy
import functools
from typing import Any, Literal

from pydantic import Field, ValidationError, create_model

from hf_finetune.config.reading.document import Key, RunDocument
from hf_finetune.config.sections import (
    SHIPPED_RECIPES,
    CardSection,
    DataSection,
    EvalSection,
    GeneratedSection,
    HubSection,
    ModelSection,
    Name,
    RecipeName,
    Section,
)
from hf_finetune.config.validation.hf_settings import build_lora_section, build_train_section
from hf_finetune.config.validation.known_keys import KnownKeys
from hf_finetune.config.validation.messages import report_errors

# Replaces a required value that is missing, so that the other settings can still be checked against each other.
PLACEHOLDER = "?"


@functools.cache
def build_run_file_section(recipe: RecipeName) -> type[Section]:
    """Build the settings class of a run file of `recipe`, with the stack's own fields under `train` and `lora`."""
    train = build_train_section(recipe)
    lora = build_lora_section()
    fields: dict[str, Any] = {
        "recipe": (Literal[SHIPPED_RECIPES], Field(description="The recipe that reads this file.")),
        "model": (ModelSection, Field(description="What is trained.")),
        "data": (DataSection, Field(description="What it is trained on.")),
        "train": (train, Field(default=train(), description=f"{train.__name__}, under its own names.")),
        "lora": (lora | None, Field(default=None, description="LoraConfig, under its own names.")),
        "eval": (EvalSection, Field(default=EvalSection(), description="What is measured, and samples.")),
        "card": (CardSection, Field(default=CardSection(), description="What only its owner can say about a model.")),
        "hub": (HubSection | None, Field(default=None, description="Where the result is pushed.")),
        "output_dir": (Name, Field(description="The run folder.")),
    }
    return create_model("RunFile", __base__=GeneratedSection, **fields)


def list_section_keys(recipe: RecipeName) -> dict[str, set[str]]:
    """List the keys of every section, by the section's full name; "" is the top level."""
    keys: dict[str, set[str]] = {}
    _collect_keys(build_run_file_section(recipe), "", keys)
    return keys


def check_sections(document: RunDocument, recipe: RecipeName) -> Any:
    """Validate the names and types of all settings; problems are added to `document`.

    Returns the validated settings, where every refused value is replaced by its default (or a placeholder).
    """
    model = build_run_file_section(recipe)
    values = copy.deepcopy(document.values)
    for key in sorted(document.refused, key=len):
        _remove(values, key)
    known = KnownKeys(recipe, list_section_keys(recipe))
    # Pydantic gives no model for values with errors. Each round takes out what it refused, so that the rest becomes
    # one: `{model: {path: 3, dtype: float32}}` -> 3 is refused -> `{model: {dtype: float32}}` is valid.
    while True:
        try:
            return model.model_validate(values)
        except ValidationError as error:
            for key, missing in report_errors(error.errors(include_url=False), values, document, known):
                _replace(values, key, missing)


def _replace(values: dict[str, Any], key: Key, missing: bool) -> None:
    """Make `values` valid at `key`: remove the value, or insert a placeholder for one that is missing."""
    if not missing:
        _remove(values, key)
    elif key == ("model",):
        values["model"] = {}
    elif key == ("data",):
        values["data"] = {"train": PLACEHOLDER}
    elif key == ("recipe",):
        values["recipe"] = SHIPPED_RECIPES[0]
    elif key == ("output_dir",):
        _get_value(values, key[:-1])[key[-1]] = PLACEHOLDER
    else:
        _remove(values, key[:-1])


def _remove(values: dict[str, Any], key: Key) -> None:
    if not key:  # a key that is a list, which YAML allows
        for name in [name for name in values if not isinstance(name, str)]:
            del values[name]
        return
    container = _get_value(values, key[:-1])
    if isinstance(container, dict):
        container.pop(str(key[-1]), None)
    elif isinstance(container, list) and len(key) > 1:
        _remove(values, key[:-1])


def _get_value(values: Any, key: Key) -> Any:
    for part in key:
        inside = isinstance(values, dict) and part in values
        listed = isinstance(values, list) and isinstance(part, int) and part < len(values)
        values = values[part] if inside or listed else None
    return values


def _collect_keys(section: type[Section], name: str, keys: dict[str, set[str]]) -> None:
    keys[name] = set(section.model_fields)
    for field_name, field in section.model_fields.items():
        for kind in _find_sections(field.annotation):
            _collect_keys(kind, f"{name}.{field_name}" if name else field_name, keys)


def _find_sections(annotation: Any) -> list[type[Section]]:
    if isinstance(annotation, type) and issubclass(annotation, Section):
        return [annotation]
    return [kind for part in getattr(annotation, "__args__", ()) for kind in _find_sections(part)]
