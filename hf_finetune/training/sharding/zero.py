"""The optimizer that DeepSpeed has split over the processes, as the one that it was made of."""

from __future__ import annotations

import copy
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import torch
from torch import Tensor, nn

from hf_finetune.models.weights.sending import make_zeros
from hf_finetune.models.weights.sharding import is_sharded

MASTER = "master"
"""What stands with the state of a parameter of 16 bits: the same weight in 32, which the steps are taken on."""


def split_weights(model: nn.Module, config: Mapping[str, Any], dtype: torch.dtype, device: torch.device) -> None:
    """Split a model as ZeRO-3 does, each weight as it comes from the first process; every rank calls it.

    DeepSpeed (0.19) would put all of the model on each device first. `config`: that of DeepSpeed, `dtype` what is
    trained in. Does nothing where the config splits weights over a part of the processes, or the model is split.
    """
    from deepspeed.runtime.zero import Init  # an extra

    zero = {name: value for name, value in config["zero_optimization"].items() if value != "auto"}
    if is_sharded(model) or zero.get("mics_shard_size", -1) > 0 or zero.get("zero_hpz_partition_size", 1) > 1:
        return
    first = torch.distributed.get_rank() == 0
    for weight in model.parameters():
        if weight.is_floating_point():
            weight.data = weight.data.to(dtype) if first else make_zeros(weight, dtype)
    kinds = {"bf16": {"enabled": dtype == torch.bfloat16}, "fp16": {"enabled": dtype == torch.float16}}
    Init(module=model, config_dict_or_path={"train_micro_batch_size_per_gpu": 1, "zero_optimization": zero, **kinds})
    model.to(device)  # the buffers: it leaves them where they are


def share_weights(zero: Any) -> None:
    """Take the steps of ZeRO-3 on the weights themselves, (numbers,), where they are what its copy of them is.

    In float32, on the same device: of 16 bytes a parameter, gradients aside, 12 are left. Not of stages 1 and 2.
    """
    # DeepSpeed (0.19) means to (#7651), and compares a torch.device with its name, which are never equal.
    for own, flat in zip(_list_own_parts(zero), list_flat_parts(zero), strict=False):
        if own is not None and (own.dtype, own.device, own.shape) == (flat.dtype, flat.device, flat.shape):
            flat.data = own.data


def gather_state(zero: Any, *, keeps: bool) -> dict[str, Any]:
    """The state of a `ZeroOptimizer` as its AdamW would have it on one process, where `keeps`; every rank calls it."""
    from deepspeed.utils import safe_get_full_fp32_param, safe_get_full_optimizer_state  # an extra

    _link_states(zero)
    state: dict[int, dict[str, Any]] = {}
    for number, (parameter, flat) in enumerate(_list_parameters(zero)):
        own = zero.optimizer.state.get(flat, {})
        values = {name: value for name, value in own.items() if not _is_of_each(value, flat)}
        for name in (name for name, value in own.items() if _is_of_each(value, flat)):
            values[name] = _keep(safe_get_full_optimizer_state(parameter, name), keeps=keeps)
        if own and parameter.dtype != torch.float32:
            values[MASTER] = _keep(safe_get_full_fp32_param(parameter), keeps=keeps)
        if own and keeps:
            state[number] = {
                name: value.clone() if isinstance(value, Tensor) else value for name, value in values.items()
            }
    return {"state": state, "param_groups": describe_groups(zero)}


def describe_groups(zero: Any) -> list[dict[str, Any]]:
    """The groups of parameters as `state_dict` of AdamW has them on one process."""
    return [
        {**{name: value for name, value in group.items() if name != "params"}, "params": numbered}
        for group, numbered in zip(zero.optimizer.param_groups, _number_groups(zero), strict=True)
    ]


def list_shapes(zero: Any) -> list[torch.Size]:
    """The shapes of its parameters, whole."""
    return [vars(parameter).get("ds_shape", parameter.shape) for parameter, _ in _list_parameters(zero)]


def put_state(zero: Any, state: Mapping[str, Any]) -> None:
    """Put back what `gather_state` has returned, or an AdamW of one process; every rank calls it with all of it.

    Behind the weights, which the steps are then taken on.
    """
    parameters = list(_list_parameters(zero))
    for number, (_, flat) in enumerate(parameters):
        for name, value in state["state"].get(number, {}).items():
            if name != MASTER:
                whole = isinstance(value, Tensor) and value.ndim > 0
                zero.optimizer.state[flat][name] = torch.zeros_like(flat) if whole else copy.deepcopy(value)
    _link_states(zero)
    for number, (parameter, _) in enumerate(parameters):
        values = state["state"].get(number, {})
        _put(parameter, values.get(MASTER), None)
        for name, value in values.items():
            if name != MASTER and isinstance(value, Tensor) and value.ndim > 0:
                _put(parameter, value, name)
    for group, kept in zip(zero.optimizer.param_groups, state["param_groups"], strict=True):
        group.update({name: value for name, value in kept.items() if name != "params"})


def _link_states(zero: Any) -> None:
    """Let the parameters know what stages 1 and 2 keep of them, of every group."""
    # DeepSpeed (0.19) does so once, behind the step of the first group, when the others have nothing yet.
    if hasattr(zero, "_lazy_init_hp_params_optimizer_state") and zero.optimizer.state:
        zero._hp_optimizer_states_linked = False
        zero._lazy_init_hp_params_optimizer_state()


def _put(parameter: nn.Parameter, value: Tensor | None, name: str | None) -> None:
    """Set the state `name` of a parameter, or the weight itself in 32 bits; without a value, what it is now."""
    from deepspeed.utils import (  # an extra
        safe_set_full_fp32_param,
        safe_set_full_optimizer_state,
        safe_set_local_fp32_param,
        safe_set_local_optimizer_state,
    )

    if "ds_id" not in vars(parameter):
        given = parameter.detach().float() if value is None else value.to(parameter.device)
        if name is None:
            safe_set_full_fp32_param(parameter, given)
        else:
            safe_set_full_optimizer_state(parameter, given, name)
        return
    own: Tensor = vars(parameter)["ds_tensor"]
    part = own.detach().float() if value is None else _cut_part(value, own)
    if name is None:
        safe_set_local_fp32_param(parameter, part)
    else:
        safe_set_local_optimizer_state(parameter, part, name)


def _cut_part(value: Tensor, own: Tensor) -> Tensor:
    """What ZeRO-3 gives this rank of a tensor: an equal share of its numbers, (numbers,), the last one filled up."""
    size, rank = own.numel(), torch.distributed.get_rank()
    part = torch.zeros(size, dtype=torch.float32)
    there = value.flatten()[size * rank : size * (rank + 1)]
    part[: len(there)] = there
    return part.to(own.device)


def list_flat_parts(zero: Any) -> list[Tensor]:
    """What this rank takes steps on, a flat tensor for each group: (numbers,)."""
    return [flat for _, _, flat in _list_groups(zero)]


def list_copies(zero: Any) -> list[Tensor]:
    """Those of them, (numbers,), that are not the weights themselves."""
    weights = {each.data_ptr() for each in _list_own_parts(zero) if each is not None}
    return [flat for flat in list_flat_parts(zero) if flat.data_ptr() not in weights]


def _list_own_parts(zero: Any) -> Sequence[Tensor | None]:
    """What ZeRO-3 keeps of the weights on this rank, (numbers,), as `list_flat_parts`; None where that is on a disk."""
    return getattr(zero, "fp16_partitioned_groups_flat", [])


def _list_parameters(zero: Any) -> Iterator[tuple[nn.Parameter, Tensor]]:
    """The parameters in the order of the optimizer, and the flat tensor, (numbers,), with this rank's parts of them."""
    for _, parameters, flat in _list_groups(zero):
        yield from ((parameter, flat) for parameter in parameters)


def _number_groups(zero: Any) -> list[list[int]]:
    """The numbers of the parameters of each group."""
    numbered: list[list[int]] = [[] for _ in zero.optimizer.param_groups]
    first = 0
    for owner, parameters, _ in _list_groups(zero):
        numbered[owner] += range(first, first + len(parameters))
        first += len(parameters)
    return numbered


def _list_groups(zero: Any) -> list[tuple[int, Sequence[nn.Parameter], Tensor]]:
    """Each flat tensor of this rank, (numbers,), with its group's number and the parameters that it has parts of."""
    if hasattr(zero, "fp16_groups"):  # stage 3, which cuts a group into several
        owners: Sequence[int] = [zero.sub_group_to_group_id[number] for number in range(len(zero.fp16_groups))]
        return list(zip(owners, zero.fp16_groups, zero.fp32_partitioned_groups_flat, strict=True))
    owners = range(len(zero.bit16_groups))
    return list(zip(owners, zero.bit16_groups, zero.single_partition_of_fp32_groups, strict=True))


def _is_of_each(value: Any, flat: Tensor) -> bool:
    return isinstance(value, Tensor) and value.shape == flat.shape


def _keep(value: Tensor, *, keeps: bool) -> Tensor | None:
    return value.cpu() if keeps else None
