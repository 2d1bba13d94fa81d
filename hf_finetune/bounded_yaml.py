"""YAML that others have written, within the bounds of a run file: a card's metadata, a run.yaml, a file of accelerate.

A short text can denote billions of values by its aliases ("billion laughs"), and whoever prints one of them never ends.
"""

from __future__ import annotations

import re
from typing import Any

MAX_BYTES = 256 * 1024
MAX_DEPTH = 16
# Aliases can make a short file denote billions of values: ten levels of ten aliases each.
MAX_VALUES = 10_000
_BRACKET = re.compile(r"[\[\]{}]")
_MOST_BRACKETS = 8 * MAX_DEPTH


def read_bounded_yaml(text: str) -> Any:
    """Read one YAML document as plain values. Raises ValueError, whose text says what is wrong with it."""
    import yaml  # here, for `hf-finetune --help` must not wait for it

    if len(text.encode("utf-8", "surrogatepass")) > MAX_BYTES:
        raise ValueError(f"is larger than {MAX_BYTES // 1024} KiB")
    if has_open_brackets(text):
        raise ValueError(f"is nested more than {MAX_DEPTH} levels deep")
    try:
        loader = yaml.SafeLoader(text)
        root = loader.get_single_node()
        if root is None:
            return None
        _check_size(root)
        return loader.construct_document(root)
    except (yaml.YAMLError, RecursionError) as problem:
        raise ValueError("is not YAML") from problem


def has_open_brackets(text: str) -> bool:
    """Whether so many brackets are open at once, quoted or not, that PyYAML would take seconds to say so."""
    # Its time grows with the square of the depth (6.0): 2,000 of them take three seconds.
    depth = 0
    for found in _BRACKET.finditer(text):
        depth = depth + 1 if found[0] in "[{" else max(0, depth - 1)
        if depth > _MOST_BRACKETS:
            return True
    return False


def _check_size(root: Any) -> None:
    """Raise ValueError where `root`, with each alias written out, is deeper or has more values than a run file may."""
    values = 0
    rest: list[tuple[Any, int]] = [(root, 0)]
    while rest:
        node, depth = rest.pop()
        values += 1
        if values > MAX_VALUES:
            raise ValueError(f"has more than {MAX_VALUES:,} values; are anchors repeated in it?")
        if depth > MAX_DEPTH:
            raise ValueError(f"is nested more than {MAX_DEPTH} levels deep")
        if node.id == "mapping":
            rest += [(part, depth + 1) for pair in node.value for part in pair]
        elif node.id == "sequence":
            rest += [(item, depth + 1) for item in node.value]
