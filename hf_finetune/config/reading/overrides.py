"""`section.key=value` on the command line, which overrides the values of the run file."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from itertools import pairwise
from typing import Any

from hf_finetune.config.reading.document import COMMAND_LINE, Key, Place, RunDocument
from hf_finetune.config.reading.yaml_reader import check_scalar, compose, parse_plain, read_node
from hf_finetune.config.validation.hf_settings import load_table
from hf_finetune.errors import ConfigError, Problem
from hf_finetune.privacy import MAX_YAML_DEPTH

_PLACE = Place(COMMAND_LINE, None)
_FORM = "write section.key=value, such as train.max_steps=50"


def find_run_file(argv: Sequence[str | Mapping[str, Any]]) -> str | Mapping[str, Any]:
    """Return the first argument: a run file, or a dict in its place. Raises ConfigError for a flag or an override."""
    if not argv:
        raise ConfigError(
            Problem("no run file is named", "give the path of a .yaml file first", COMMAND_LINE, code="HF615")
        )
    if not isinstance(argv[0], str):
        return argv[0]
    if argv[0].startswith("-"):
        raise ConfigError(
            Problem(f"{argv[0].partition('=')[0]} stands where the run file belongs", _FORM, COMMAND_LINE, code="HF615")
        )
    if "=" in argv[0] and not argv[0].endswith((".yaml", ".yml")):
        what = f"{argv[0].partition('=')[0]}=... stands where the run file belongs"
        raise ConfigError(Problem(what, "give the path of a .yaml file first", COMMAND_LINE, code="HF615"))
    return argv[0]


def apply_overrides(document: RunDocument, arguments: Sequence[str]) -> None:
    """Set each value in `document`; an argument that is not `section.key=value` becomes a problem of it."""
    seen: set[Key] = set()
    for before, argument in pairwise(["", *arguments]):
        if before.startswith("-") and not {*before, *argument} & {"="}:
            continue  # the value of a flag, which is a problem already: `--max_steps 5`
        key = _parse_key(document, argument)
        if key is None:
            continue
        if key in seen:
            document.refuse(key, "is given twice on the command line", "keep one of them", place=_PLACE, code="HF612")
            continue
        seen.add(key)
        _forget_places(document, key)
        document.places[key] = _PLACE
        _set_value(document, key, _parse_value(document, key, argument.partition("=")[2]))


def _parse_key(document: RunDocument, argument: str) -> Key | None:
    # "train.max_steps=50" -> ("train", "max_steps"); "--max_steps=50" and "max_steps" are refused.
    name, equals, _ = argument.partition("=")
    if argument.startswith("-"):
        key, what = name.lstrip("-"), f"{name} is a flag; settings have no flags here"
    elif not equals:
        key, what = argument, f"{argument!r} is not a setting"
    elif not all(part and part.isprintable() for part in name.split(".")):
        key, what = name, f"{name!r} is not a key"
    elif name.count(".") >= MAX_YAML_DEPTH:
        key, what = "", f"a key of {name.count('.') + 1:,} names lies deeper than any setting"
    else:
        return tuple(name.split("."))
    own = key.replace("-", "_")
    remedy = (
        f"write train.{own}=..." if argument.startswith("-") and own in load_table()["TrainingArguments"] else _FORM
    )
    document.problems.append(Problem(what, remedy, COMMAND_LINE, None, key or None, code="HF601"))
    return None


def _parse_value(document: RunDocument, key: Key, text: str) -> Any:
    """Parse lists, mappings and quoted text as YAML, and anything else as one plain word."""
    # As YAML, `*.jsonl` would be an alias and `data: x` a mapping; as plain words they need no quotes inside quotes.
    if not text.startswith(("[", "{", "'", '"')):
        return check_scalar(parse_plain(text), key, document)
    try:
        node = compose(text, COMMAND_LINE)
    except ConfigError as error:
        first = error.problems[0]
        document.refuse(key, first.what, "check quotes and brackets", code=first.code, place=_PLACE)
        return None
    return None if node is None else read_node(node, key, document, lambda _: _PLACE)


def _set_value(document: RunDocument, key: Key, value: Any) -> None:
    section = document.values
    for depth, name in enumerate(key[:-1], start=1):
        inner = section.get(str(name))
        if inner is None:
            inner = section[str(name)] = {}
            document.places[key[:depth]] = _PLACE
        if not isinstance(inner, dict):
            around = ".".join(str(part) for part in key[:depth])
            document.refuse(
                key, f"{around} is a value, not a section", f"set {around} as a whole", place=_PLACE, code="HF603"
            )
            return
        section = inner
    section[str(key[-1])] = value


def _forget_places(document: RunDocument, key: Key) -> None:
    """Forget where the file set `key` and the values inside it, so that no message names an overridden line."""
    for inner in [inner for inner in document.places if inner[: len(key)] == key]:
        del document.places[inner]
