"""`decision.json` of a classifier, read here alone: each value is of its kind before anything is made of it."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Annotated, Literal

import msgspec
from msgspec import Meta

from hf_finetune.errors import ModelError, Problem
from hf_finetune.folders.record_kinds import read_record

DECISION = "decision.json"
_LARGEST = 16 << 20
_REMEDY = "remove it (labels are then those of the largest probability)"
_KEY = re.compile(r"`\$\.(\w+)")
_MISSING = re.compile(r"field `(\w+)`")
_EXPECTED = {
    "labels": "a list of names",
    "kind": "single or multi",
    "temperature": "a number above 0",
    "thresholds": "a number between 0 and 1 for each label",
    "metric": "the name of a metric, or null",
    "offsets_in_weights": "true or false",
}


class DecisionRecord(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """What the file says; `Decision` of the models has the meaning of each."""

    labels: Annotated[tuple[str, ...], Meta(min_length=1)]
    kind: Literal["single", "multi"]
    thresholds: dict[str, Annotated[float, Meta(gt=0, lt=1)]]
    temperature: Annotated[float, Meta(gt=0, le=1e300)] = 1.0
    metric: str | None = None
    offsets_in_weights: bool = False


def read_decision_record(path: Path) -> DecisionRecord:
    """Read the file at `path`. Raises `ModelError`, by the key that is at fault, where a value is of another kind."""
    try:
        record = msgspec.convert(read_record(path, _LARGEST), DecisionRecord)
    except msgspec.ValidationError as problem:
        # "Expected `object`, got `str` - at `$.thresholds`" and "Object missing required field `labels`"
        found = _KEY.search(str(problem)) or _MISSING.search(str(problem))
        raise _make_error(path, found[1] if found else None) from problem
    except (ValueError, OSError) as problem:
        raise ModelError(Problem(f"cannot be read ({problem})", _REMEDY, path=str(path), code="HF957")) from problem
    if record.thresholds.keys() != set(record.labels):
        raise _make_error(path, "thresholds")
    if len(set(record.labels)) < len(record.labels):
        raise _make_error(path, "labels")
    return record


def _make_error(path: Path, key: str | None) -> ModelError:
    what = "is no decision of a classifier" if key is None else "is no key of such a file"
    what = f"is not {_EXPECTED[key]}" if key in _EXPECTED else what
    return ModelError(Problem(what, _REMEDY, path=str(path), key=key, code="HF957"))
