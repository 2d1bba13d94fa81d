"""How much a JSON file of a model may hold: more than any has takes libraries minutes, key by key."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

from hf_finetune.errors import Problem

MOST_KEYS = 10_000
"""Of one section."""
MOST_VALUES = 200_000
"""Of a file, lists and sections counted by what is in them."""
# Bounded each for itself: by the rows of a head, and by the type of the key.
_MAPS = ("id2label", "label2id", "added_tokens_decoder")
ANOTHER = "use another copy of the model, or another model"


def find_too_much(values: Mapping[str, Any], place: str) -> Iterator[Problem]:
    """Yield the one problem of a file with a section of more keys, or with more values, than that of any model."""
    count = 0
    rest: list[tuple[str, Any]] = [("", values)]
    while rest:
        key, value = rest.pop()
        if key not in _MAPS:
            count += len(value)
            if isinstance(value, dict) and len(value) > MOST_KEYS:
                what = f"has {len(value):,} keys, and no model has more than {MOST_KEYS:,}"
                yield Problem(what, ANOTHER, place, key=key or None, code="HF502")
                return
        if count > MOST_VALUES:
            yield Problem(
                f"has more than {MOST_VALUES:,} values, and no model has so many", ANOTHER, place, code="HF502"
            )
            return
        inside = value.items() if isinstance(value, dict) else ((key, each) for each in value)
        rest += [(name, each) for name, each in inside if isinstance(each, dict | list)]
