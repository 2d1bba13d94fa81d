"""Write the files that are generated from the installed stack: `python -m hf_finetune.config.generate`.

    stack_settings.json    the fields of TrainingArguments, SFTConfig and LoraConfig, so that a run file is
                           validated without importing torch
    run.schema.json        the JSON Schema of a run file, for editors

Run it after a change to sections.py or to the pinned versions; a test compares both files with their sources.
This is the only module of the room that imports the stack, and nothing imports this module but that test.
"""

from __future__ import annotations

import dataclasses
import json
import types
import typing
from enum import Enum
from importlib.metadata import version
from pathlib import Path
from typing import Any

from hf_finetune.config.schema import SCHEMA_FILE, run_schema
from hf_finetune.config.stack_settings import TABLE_FILE, load_table

MAX_HELP = 200
_PACKAGES = ("transformers", "trl", "peft")
_SIMPLE = {bool: "bool", int: "int", float: "float", str: "str", types.NoneType: "null"}

# Values that the stack takes beyond what its annotations say.
_ALSO_TAKES = {"fsdp": ["bool"], "report_to": [], "debug": []}


def stack_table() -> dict[str, Any]:
    """What `stack_settings.json` holds, made from the installed packages."""
    from peft import LoraConfig
    from transformers import TrainingArguments
    from transformers.integrations.integration_utils import INTEGRATION_TO_CALLBACK
    from trl.trainer.sft_config import SFTConfig

    training = _fields(TrainingArguments)
    return {
        "versions": {package: version(package) for package in _PACKAGES},
        "trackers": sorted(INTEGRATION_TO_CALLBACK),
        "TrainingArguments": training,
        "SFTConfig": {name: field for name, field in _fields(SFTConfig).items() if training.get(name) != field},
        "LoraConfig": _fields(LoraConfig),
    }


def _fields(settings_class: type) -> dict[str, dict[str, Any]]:
    hints = typing.get_type_hints(settings_class)
    table = {}
    for field in dataclasses.fields(settings_class):
        kinds = set(_kinds(hints[field.name])) | set(_ALSO_TAKES.get(field.name, []))
        entry: dict[str, Any] = {"types": sorted(kinds), "default": _default(field)}
        if choices := _choices(hints[field.name]) or list(field.metadata.get("choices", [])):
            entry["choices"] = choices
        if text := _first_sentence(str(field.metadata.get("help", ""))):
            entry["help"] = text
        table[field.name] = entry
    return table


def _kinds(hint: Any) -> list[str]:
    """The kinds of YAML values that an annotation takes."""
    if hint in _SIMPLE:
        return [_SIMPLE[hint]]
    origin = typing.get_origin(hint)
    if origin in (typing.Union, types.UnionType):
        return [kind for part in typing.get_args(hint) for kind in _kinds(part)]
    if origin is typing.Literal:
        return [_SIMPLE[type(value)] for value in typing.get_args(hint)]
    if origin is list or hint is list:
        items = {kind for part in typing.get_args(hint) for kind in _kinds(part)}
        return [f"list[{items.pop()}]" if items in ({"str"}, {"int"}) else "list"]
    if origin is tuple:
        return ["list"]
    return ["str"] if isinstance(hint, type) and issubclass(hint, Enum) else ["dict"]


def _choices(hint: Any) -> list[str]:
    """The words that an annotation allows, where it is an enumeration of words."""
    parts = typing.get_args(hint) or (hint,)
    for part in parts:
        if isinstance(part, type) and issubclass(part, Enum) and part.__name__ != "DebugOption":
            return [str(member.value) for member in part]
    words = typing.get_args(hint) if typing.get_origin(hint) is typing.Literal else ()
    return [word for word in words if isinstance(word, str)]


def _default(field: dataclasses.Field[Any]) -> Any:
    value = field.default
    if field.default_factory is not dataclasses.MISSING:
        value = field.default_factory()
    if isinstance(value, Enum):
        return value.value
    return value if value is None or isinstance(value, bool | int | float | str | list | dict) else None


def _first_sentence(text: str) -> str:
    sentence = " ".join(text.replace("%%", "%").split()).split(". ")[0].rstrip(".")
    return sentence if len(sentence) <= MAX_HELP else sentence[: MAX_HELP - 1].rsplit(" ", 1)[0] + " …"


def as_json(value: dict[str, Any]) -> str:
    return json.dumps(value, indent=1, ensure_ascii=False) + "\n"


def main() -> None:
    """Write both files beside this module."""
    folder = Path(__file__).parent
    (folder / TABLE_FILE).write_text(as_json(stack_table()), encoding="utf-8")
    load_table.cache_clear()
    (folder / SCHEMA_FILE).write_text(as_json(run_schema()), encoding="utf-8")


if __name__ == "__main__":
    main()
