"""The state of optimizers, schedulers and random generators as JSON and tensors: no pickle is written or read."""

from __future__ import annotations

from typing import Any

from torch import Tensor

from hf_finetune.folders.encoded_state import DICT, TENSOR, TUPLE

JSON_TYPES = (str, int, float, bool, type(None))


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


def _check_key(key: Any, place: str) -> Any:
    if type(key) not in JSON_TYPES:
        raise TypeError(f"a key of {place} is of type {type(key).__name__}")
    return key
