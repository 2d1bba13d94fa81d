"""Whether what a checkpoint keeps for an object is of the kind that the object itself keeps.

`load_state_dict` of a schedule takes any name for one of its attributes, and that of an optimizer any value: what is of
another kind would show as an error of the next step.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import torch
from torch import Tensor, nn
from torch.optim import LBFGS, Adafactor, Optimizer, SparseAdam
from transformers.trainer_callback import ExportableState

from hf_finetune.errors import ModelError, Problem
from hf_finetune.folders import RESUME
from hf_finetune.folders.record_kinds import show_key

# Of a parameter with two dimensions they keep other tensors than of one with one, or they take no such gradient.
_OF_SHAPES_OF_THEIR_OWN = (Adafactor, LBFGS, SparseAdam)

# The squares of Adam and RMSprop, the sums of Adagrad, the largest of Adamax; counts of steps.
_NEVER_NEGATIVE = ("exp_avg_sq", "max_exp_avg_sq", "square_avg", "acc_delta", "sum", "exp_inf", "step")


def is_like(kept: Any, live: Any) -> bool:
    """Whether a state is of the kind of one that its object has now: names, lengths and kinds, not values."""
    if isinstance(live, Mapping):
        alike = isinstance(kept, Mapping) and kept.keys() == live.keys()
        return alike and all(is_like(kept[name], each) for name, each in live.items())
    if isinstance(live, list | tuple):
        alike = type(kept) is type(live) and len(kept) == len(live)
        return alike and all(map(is_like, kept, live))
    if isinstance(live, Tensor):
        return isinstance(kept, Tensor) and kept.shape == live.shape
    if live is None:  # what is not decided yet, as `foreach` of an optimizer
        return kept is None or isinstance(kept, bool | int | float)
    if isinstance(live, int | float) and not isinstance(live, bool):
        return isinstance(kept, int | float) and not isinstance(kept, bool)
    return type(kept) is type(live)


def check_optimizer(
    optimizer: Optimizer, groups: Sequence[Mapping[str, Any]], shapes: Sequence[torch.Size], kept: Any, problem: Problem
) -> None:
    """Raise `ModelError` of `problem` where `kept` is no state of this optimizer.

    `groups` are its groups as `state_dict` has them, and `shapes` those of its parameters, whole.
    """
    if not isinstance(kept, Mapping) or not {"state", "param_groups"} <= kept.keys():
        raise ModelError(problem)
    kept_groups = kept["param_groups"]
    if not isinstance(kept_groups, list) or len(kept_groups) != len(groups):
        raise ModelError(problem)
    for group, of_now in zip(kept_groups, groups, strict=True):
        # A group may have more than it begins with: some optimizers count in it.
        if not (isinstance(group, Mapping) and all(is_like(group.get(name), each) for name, each in of_now.items())):
            raise ModelError(problem)
    _check_values(kept["state"])
    if type(optimizer).__module__.startswith("torch.optim.") and not isinstance(optimizer, _OF_SHAPES_OF_THEIR_OWN):
        _check_tensors(optimizer, shapes, kept["state"], problem)


def _check_tensors(optimizer: Optimizer, shapes: Sequence[torch.Size], kept: Any, problem: Problem) -> None:
    """Raise where a parameter has not what a step of the optimizer leaves: numbers, and tensors of its shape."""
    # By their numbers, as `state_dict` has them: one whose number nobody has would be kept for ever.
    if not isinstance(kept, Mapping) or not kept.keys() <= set(range(len(shapes))):
        raise ModelError(problem)
    # Under ZeRO-3 a group has its parameters for the time of a step.
    parameters = (each for group in optimizer.param_groups for each in group["params"])
    left = _take_step(optimizer, next(parameters, torch.zeros(1)))
    for number, state in kept.items():
        shape = shapes[number]
        if not isinstance(state, Mapping) or not left.keys() <= state.keys():
            raise ModelError(problem)
        for name, value in left.items():
            alike = isinstance(state[name], Tensor) and state[name].shape in (shape, torch.Size())
            if not (alike if isinstance(value, Tensor) else is_like(state[name], value)):
                raise ModelError(problem)


def _check_values(kept: Any) -> None:
    """Raise where a tensor holds what no step leaves in it, which the next step would end the run for."""
    for number, state in kept.items() if isinstance(kept, Mapping) else ():
        for name, value in state.items() if isinstance(state, Mapping) else ():
            if not isinstance(value, Tensor) or not value.is_floating_point() or not value.numel():
                continue
            low, high = (each.item() for each in torch.aminmax(value.detach()))  # NaN where one is in it
            lost = not (math.isfinite(low) and math.isfinite(high))
            if lost or (low < 0 and str(name).startswith(_NEVER_NEGATIVE)):
                what = f"the optimizer's {show_key(str(name))} of parameter {show_key(str(number))} holds numbers "
                what += "that are not finite" if lost else "below 0, of which the root is taken"
                raise ModelError(
                    Problem(what, "name another checkpoint: no run has written this one", key=RESUME, code="HF906")
                )


def _take_step(optimizer: Optimizer, parameter: Tensor) -> dict[str, Any]:
    """What an optimizer of this kind keeps of a parameter, by a step of another one."""
    one = nn.Parameter(torch.zeros(1, device=parameter.device, dtype=parameter.dtype))
    one.grad = torch.zeros_like(one)
    # In a group, for not every setting of it is a parameter of `__init__` (`decoupled_weight_decay` of AdamW).
    another: Optimizer = type(optimizer)([{**optimizer.defaults, "params": [one]}])  # type: ignore[call-arg]
    another.step()
    return dict(another.state[one])


def check_exported(callbacks: Iterable[Any], kept: Mapping[str, Any]) -> None:
    """Raise `ModelError` where a checkpoint has, for one of these callbacks, what it does not keep itself."""
    for callback in callbacks:
        name = type(callback).__name__
        states = kept.get(name, [])
        live = callback.state() if isinstance(callback, ExportableState) else {"args": {}, "attributes": {}}
        for state in states if isinstance(states, list) else [states]:
            parts = [(state.get(part, {}), live[part]) for part in ("args", "attributes")]
            if not all(each.keys() <= own.keys() and all(is_like(each[key], own[key]) for key in each)
                       for each, own in parts):  # fmt: skip
                what = f"the checkpoint has a state of {show_key(name)} that it does not keep"
                remedy = "set train.restore_callback_states_from_checkpoint=false, or name another checkpoint"
                raise ModelError(Problem(what, remedy, key=RESUME, code="HF916"))
