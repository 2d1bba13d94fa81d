"""The state of a run as JSON and tensors: what comes back is what went in, and what cannot be held is said."""

from __future__ import annotations

import json
import math
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor, nn

from hf_finetune.errors import ModelError
from hf_finetune.training.checkpoints.codec import decode_state, encode_state
from hf_finetune.training.checkpoints.random_state import read_random_state, restore_random_state
from hf_finetune.training.checkpoints.state import read_state, restore_optimizer

TENSORS = st.lists(st.floats(width=32), max_size=4).map(torch.tensor) | st.integers(0, 9).map(torch.tensor)
PLAIN = st.none() | st.booleans() | st.integers() | st.floats() | st.text()
KEYS = st.text() | st.integers() | st.booleans() | st.none()
STATES = st.recursive(
    PLAIN | TENSORS,
    lambda inner: st.lists(inner) | st.lists(inner).map(tuple) | st.dictionaries(KEYS, inner),
    max_leaves=12,
)


def are_same(one: Any, other: Any) -> bool:
    if type(one) is not type(other):
        return False
    if isinstance(one, Tensor):
        return one.dtype == other.dtype and torch.equal(one.nan_to_num(7.5), other.nan_to_num(7.5))
    if isinstance(one, dict):
        pairs = zip(one.items(), other.items(), strict=True)
        return len(one) == len(other) and all(are_same([*left], [*right]) for left, right in pairs)
    if isinstance(one, list | tuple):
        return len(one) == len(other) and all(map(are_same, one, other))
    return one == other or (isinstance(one, float) and math.isnan(one) and math.isnan(other))


@given(STATES)
def test_every_state_comes_back_from_json_and_tensors_as_it_was(state):
    tensors: dict[str, Tensor] = {}
    written = json.dumps(encode_state(state, "state", tensors))
    assert are_same(decode_state(json.loads(written), tensors.__getitem__), state)


@pytest.mark.parametrize(
    ("state", "said"),
    [
        ({"a": [1, {2}]}, "state.a.1 is of type set"),
        ({(1, 2): 3}, "a key of state is of type tuple"),
        ({"rate": torch.float32}, "state.rate is of type dtype"),
    ],
)
def test_what_json_and_tensors_cannot_hold_is_refused_with_its_place(state, said):
    with pytest.raises(TypeError, match=said):
        encode_state(state, "state", {})


def test_the_generators_draw_on_from_where_they_were():
    import random

    import numpy as np

    def draw() -> list[float]:
        return [random.random(), random.gauss(0, 1), float(np.random.rand()), float(np.random.randn()), *torch.rand(3)]

    draw()
    state, tensors = read_random_state(), {}
    expected = draw()
    encoded = json.loads(json.dumps(encode_state(state, "random", tensors)))
    restore_random_state(decode_state(encoded, tensors.__getitem__))
    assert draw() == expected


def training(optimizer: torch.optim.Optimizer) -> Any:
    schedule = torch.optim.lr_scheduler.LambdaLR(optimizer, lambda step: 1 / (1 + step))
    return SimpleNamespace(
        optimizer=optimizer,
        lr_scheduler=schedule,
        accelerator=SimpleNamespace(scaler=None),
        callback_handler=SimpleNamespace(callbacks=[]),
    )


def test_an_optimizer_with_a_state_that_no_checkpoint_holds_is_named():
    weight = nn.Parameter(torch.ones(2))
    optimizer = torch.optim.SGD([weight], lr=0.1)
    optimizer.state[weight]["projector"] = object()
    with pytest.raises(ModelError, match=r"SGD has a state that no checkpoint can hold \(state.optimizer.state.0.proj"):
        read_state(training(optimizer), {}, {})


def test_the_state_of_another_optimizer_is_refused():
    weights = [nn.Parameter(torch.ones(2)), nn.Parameter(torch.ones(3))]
    one, other = (training(torch.optim.AdamW(taken, lr=0.1)) for taken in (weights[:1], weights))
    encoded, tensors = read_state(other, {}, {})
    state = decode_state(encoded, tensors.__getitem__)
    with pytest.raises(ModelError, match="the state of the optimizer is of another optimizer, or of other weights"):
        restore_optimizer(one, state)
