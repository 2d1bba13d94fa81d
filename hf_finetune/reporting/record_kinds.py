"""Of which kind the values of report.json and manifest.json are that pages and cards compute with.

Both may be written by others. What is wrong is named by its key before anything is made of it; keys that are not
listed here are shown as they are, whatever they hold.
"""

from __future__ import annotations

import json
import math
from collections.abc import Callable, Iterator, Mapping
from typing import Any

_OBJECT, _LIST, _OBJECTS, _TEXT = "object", "list", "list of objects", "text"
_COUNT, _NUMBER, _FIGURE = "whole number", "number", "number or null"

# A star stands for any name, or place in a list. A value may be left out.
REPORT_KINDS = {
    **dict.fromkeys(("settings", "data", "parameters", "train", "evaluation", "distributed", "environment"), _OBJECT),
    "samples": _LIST,
    "settings.card": _OBJECT,
    "settings.card.datasets": _LIST,
    "settings.train.warmup_steps": _FIGURE,
    "data.*.rows": _FIGURE,
    "parameters.*": _COUNT,
    **dict.fromkeys(("train.steps", "train.seen.*"), _COUNT),
    **dict.fromkeys(("train.epochs", "train.runtime_s", "train.tokens_per_s", "train.energy.watt_hours"), _FIGURE),
    **dict.fromkeys(("evaluation.*", "evaluation.*.per_class", "evaluation.*.per_class.*"), _OBJECT),
    **dict.fromkeys(("evaluation.*.baselines", "evaluation.*.baselines.*"), _OBJECT),
    "environment.devices": _OBJECTS,
    "environment.devices.*.memory_gib": _NUMBER,
}
MANIFEST_KINDS = {
    "data": _OBJECT,
    "data.files": _OBJECTS,
    "data.splits": _OBJECT,
    "data.splits.*": _OBJECT,
    "data.overlap": _OBJECT,
    "data.overlap.*": _OBJECT,
    "versions": _OBJECT,
    "versions.*": _TEXT,
}
_LONGEST_NUMBER = 19


def parse_record(text: str) -> Any:
    """Parse a JSON file of a run. Raises ValueError for integers beyond 64 bits, too, which no run has counted."""
    return json.loads(text, parse_int=_parse_int)


def _parse_int(digits: str) -> int:
    if len(digits.lstrip("-")) > _LONGEST_NUMBER:
        raise ValueError("an integer of more than 64 bits")
    return int(digits)


def find_wrong_kinds(record: Mapping[str, Any], kinds: Mapping[str, str]) -> Iterator[str]:
    """Yield what is wrong with the values of `record` that `kinds` lists: `train.steps is no whole number`."""
    for pattern, kind in kinds.items():
        for key, value in _find_values(record, pattern.split("."), ""):
            if not _CHECKS[kind](value):
                yield f"{key} is no {kind}"


def _find_values(holder: Any, names: list[str], key: str) -> Iterator[tuple[str, Any]]:
    if not names:
        yield key.removeprefix("."), holder
        return
    held = dict(enumerate(holder)) if isinstance(holder, list) else holder
    for name, value in held.items() if isinstance(held, Mapping) else ():
        if names[0] in ("*", name):
            yield from _find_values(value, names[1:], f"{key}.{name}")


def _is_count(value: Any) -> bool:
    return isinstance(value, int) and not isinstance(value, bool)


def _is_number(value: Any) -> bool:
    return _is_count(value) or (isinstance(value, float) and math.isfinite(value))


_CHECKS: dict[str, Callable[[Any], bool]] = {
    _OBJECT: lambda value: isinstance(value, dict),
    _LIST: lambda value: isinstance(value, list),
    _OBJECTS: lambda value: isinstance(value, list) and all(isinstance(item, dict) for item in value),
    _COUNT: _is_count,
    _NUMBER: _is_number,
    _FIGURE: lambda value: value is None or _is_number(value),
    _TEXT: lambda value: isinstance(value, str),
}
