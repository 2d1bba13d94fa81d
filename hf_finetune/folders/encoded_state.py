"""The state of a run as state.json has it: JSON in which the names of tensors stand for tensors.

{"state": {0: {"step": tensor(3.)}}} with the place "optimizer" is written as
{"dict": [["state", {"dict": [[0, {"dict": [["step", {"tensor": "optimizer.state.0.step"}]]}]]}]]}: keys stay numbers.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

TENSOR, TUPLE, DICT = "tensor", "tuple", "dict"


def decode_state(encoded: Any, get_tensor: Callable[[str], Any]) -> Any:
    """What `encode_state` of training was given; `get_tensor` is given the names of tensors.

    Raises KeyError, TypeError or ValueError for what `encode_state` has not written.
    """
    if isinstance(encoded, list):
        return [decode_state(value, get_tensor) for value in encoded]
    if not isinstance(encoded, dict):
        return encoded
    [(kind, content)] = encoded.items()
    if kind == TENSOR:
        return get_tensor(content)
    if kind == TUPLE and isinstance(content, list):
        return tuple(decode_state(value, get_tensor) for value in content)
    if kind == DICT and isinstance(content, list):
        return {key: decode_state(value, get_tensor) for key, value in content}
    raise ValueError("no state is written so")
