"""The state of a run as JSON and tensors: what comes back is what went in, and what cannot be held is said."""

from __future__ import annotations

import json
import math
from collections.abc import Callable
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor, nn
from torch.optim.lr_scheduler import ReduceLROnPlateau
from transformers import EarlyStoppingCallback, TrainerCallback
from transformers.trainer_callback import TrainerControl

from hf_finetune.errors import ModelError
from hf_finetune.folders.encoded_state import decode_state
from hf_finetune.training.checkpoints.codec import encode_state
from hf_finetune.training.checkpoints.likeness import check_exported
from hf_finetune.training.checkpoints.random_state import read_random_state, restore_random_state
from hf_finetune.training.checkpoints.state import read_state, restore_callbacks, restore_optimizer

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


OPTIMIZERS: list[Callable[[Any], torch.optim.Optimizer]] = [
    torch.optim.AdamW,
    lambda weights: torch.optim.Adam(weights, amsgrad=True),
    lambda weights: torch.optim.SGD(weights, lr=0.1, momentum=0.9),
    lambda weights: torch.optim.SGD(weights, lr=0.1),
    *(torch.optim.Adamax, torch.optim.NAdam, torch.optim.RAdam, torch.optim.RMSprop, torch.optim.Rprop),
    *(torch.optim.Adagrad, torch.optim.Adadelta, torch.optim.ASGD, torch.optim.Adafactor),
]


def train_a_little(make: Callable[[Any], torch.optim.Optimizer]) -> Any:
    weights = [nn.Parameter(torch.ones(2, 3)), nn.Parameter(torch.ones(3))]
    trainer = training(make([{"params": weights[:1]}, {"params": weights[1:], "weight_decay": 0.0}]))
    for _ in range(2):
        sum((each * each).sum() for each in weights).backward()  # type: ignore[union-attr]
        trainer.optimizer.step()
        trainer.lr_scheduler.step()
    return trainer


def keep(trainer: Any) -> Any:
    encoded, tensors = read_state(trainer, {}, {})
    return decode_state(json.loads(json.dumps(encoded)), tensors.__getitem__)


@pytest.mark.parametrize("make", OPTIMIZERS)
def test_the_state_that_an_optimizer_of_torch_has_kept_is_taken(make):
    trained = train_a_little(make)
    again = train_a_little(make)
    restore_optimizer(again, keep(trained))
    assert are_same(again.optimizer.state_dict()["state"], trained.optimizer.state_dict()["state"])


def change_optimizer(change: Callable[[Any], Any]) -> Callable[[Any], Any]:
    return lambda state: change(state["optimizer"])


@pytest.mark.parametrize(
    ("change", "part"),
    [
        (change_optimizer(lambda kept: kept["state"][0].update(exp_avg=torch.ones(7))), "optimizer"),
        (change_optimizer(lambda kept: kept["state"][0].update(step="x")), "optimizer"),
        (change_optimizer(lambda kept: kept["state"][1].pop("exp_avg_sq")), "optimizer"),
        (change_optimizer(lambda kept: kept["state"].update({5: kept["state"][0]})), "optimizer"),
        (change_optimizer(lambda kept: kept["state"].update({0: 5})), "optimizer"),
        (change_optimizer(lambda kept: kept["param_groups"][0].update(params=["x"])), "optimizer"),
        (change_optimizer(lambda kept: kept["param_groups"][0].pop("amsgrad")), "optimizer"),
        (change_optimizer(lambda kept: kept.update(param_groups=5)), "optimizer"),
        (lambda state: state.pop("optimizer"), "optimizer"),
        (lambda state: state["schedule"].update(step=5), "schedule"),
        (lambda state: state["schedule"].update(last_epoch="x"), "schedule"),
        (lambda state: state["schedule"].update(base_lrs=[0.1]), "schedule"),
        (lambda state: state.pop("schedule"), "schedule"),
    ],
)
def test_what_an_optimizer_or_a_schedule_would_stumble_over_at_its_next_step_is_refused(change, part):
    trainer = train_a_little(torch.optim.AdamW)
    state = keep(trainer)
    change(state)
    with pytest.raises(ModelError, match=f"the state of the {part}.* is of another .*; set train.optim"):
        restore_optimizer(trainer, state)


def test_a_schedule_with_a_rate_of_its_own_is_gone_on_with():
    trainer = train_a_little(torch.optim.AdamW)
    trainer.lr_scheduler = ReduceLROnPlateau(trainer.optimizer)
    trainer.lr_scheduler.step(1.0)
    restore_optimizer(trainer, keep(trainer))
    assert trainer.lr_scheduler.best == 1.0


class Counts(TrainerCallback):
    """A user's callback that believes what it is given."""

    def save_state(self) -> Any:
        return {"count": 1}

    def restore_state(self, state: Any) -> None:
        self.count = state["count"] + 1


@pytest.mark.parametrize("state", [5, {}, [], {"count": "x"}])
def test_a_callback_of_a_user_that_cannot_go_on_from_its_state_is_named(state):
    with pytest.raises(ModelError, match="keeps a state of Counts that it cannot go on from; name another checkpoint"):
        restore_callbacks([Counts()], {"Counts": state})


@pytest.mark.parametrize(
    "kept",
    [
        {"TrainerControl": {"args": {"x": True}, "attributes": {}}},
        {"TrainerControl": {"args": {}, "attributes": {"__class__": 1}}},
        {"EarlyStoppingCallback": [{"args": {"early_stopping_patience": "x"}}]},
        {"Counts": {"args": {"count": 1}}},
    ],
)
def test_a_callback_of_transformers_gets_back_nothing_but_what_it_keeps(kept):
    callbacks = [TrainerControl(), EarlyStoppingCallback(), Counts()]
    check_exported(callbacks, {type(each).__name__: each.state() for each in callbacks[:2]} | {"another": {}})  # type: ignore[attr-defined]
    with pytest.raises(ModelError, match=r"a state of .* that it does not keep; set train.restore_callback_states"):
        check_exported(callbacks, kept)
