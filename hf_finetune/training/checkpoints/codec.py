"""The state of optimizers, schedulers and random generators as JSON and tensors: no pickle is written or read."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from torch import Tensor

TENSOR, TUPLE, DICT = "tensor", "tuple", "dict"
JSON_TYPES = (str, int, float, bool, type(None))


# {"state": {0: {"step": tensor(3.)}}} with the place "optimizer" becomes
# {"dict": [["state", {"dict": [[0, {"dict": [["step", {"tensor": "optimizer.state.0.step"}]]}]]}]]}: keys stay numbers.


def encode_state(state: Any, place: str, tensors: dict[str, Tensor]) -> Any:
    """`state` as JSON has it; its tensors (any shape) are put into `tensors` under names that begin with `place`.

    What is not JSON stands as an object of one key: {"tensor": name}, {"tuple": [...]}, {"dict": [[key, value], ...]}.
    Raises TypeError, which names the place, for anything else than tensors, plain values and containers of them.
    """
    if isinstance(state, Tensor):
        tensors[place] = state.detach()
        return {TENSOR: place}
    # By type, not isinstance: a float64 of NumPy is a float, and JSON would give back another kind of number.
    if type(state) in JSON_TYPES:
        return state
    if isinstance(state, dict):
        return {DICT: [[_check_key(key, place), encode_state(value, f"{place}.{key}", tensors)]
                       for key, value in state.items()]}  # fmt: skip
    if isinstance(state, list | tuple):
        plain = all(type(value) in JSON_TYPES for value in state)  # the 625 numbers of a random generator
        items = (
            list(state)
            if plain
            else [encode_state(value, f"{place}.{number}", tensors) for number, value in enumerate(state)]
        )
        return items if isinstance(state, list) else {TUPLE: items}
    raise TypeError(f"{place} is of type {type(state).__name__}")


def decode_state(encoded: Any, get_tensor: Callable[[str], Tensor]) -> Any:
    """What `encode_state` was given; `get_tensor` is given the names of tensors.

    Raises KeyError, TypeError or ValueError for what `encode_state` has not written.
    """
    if isinstance(encoded, list):
        return [decode_state(value, get_tensor) for value in encoded]
    if not isinstance(encoded, dict):
        return encoded
    [(kind, content)] = encoded.items()
    if kind == TENSOR:
        return get_tensor(content)
    if kind == TUPLE:
        return tuple(decode_state(value, get_tensor) for value in content)
    if kind == DICT:
        return {key: decode_state(value, get_tensor) for key, value in content}
    raise ValueError(f"no kind of state is called {kind!r}")


def _check_key(key: Any, place: str) -> Any:
    if type(key) not in JSON_TYPES:
        raise TypeError(f"a key of {place} is of type {type(key).__name__}")
    return key
