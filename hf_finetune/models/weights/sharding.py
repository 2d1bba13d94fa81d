"""Models of which each process holds a part of every weight: FSDP2 (DTensor) and DeepSpeed ZeRO-3.

Whatever computes with such a model, or reads a weight of it, is done by all processes together, in the same order.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from typing import Any, TypeVar

import torch
import torch.distributed as dist
from torch import Tensor, nn
from torch.distributed.fsdp import FSDPModule, register_fsdp_forward_method
from torch.distributed.tensor import DTensor, distribute_tensor

BOUND = "_bound_method"
Result = TypeVar("Result")


def is_sharded(model: nn.Module) -> bool:
    """Whether this process holds a part alone of a model's weights."""
    return any(isinstance(module, FSDPModule) for module in model.modules()) or any(
        isinstance(weight, DTensor) or _is_partitioned(weight) for weight in model.parameters()
    )


def split_again(model: nn.Module) -> None:
    """Let FSDP2 put away what a forward pass has gathered: before a weight is changed, or its own part looked at.

    It leaves the weights outside of all blocks whole behind a forward pass; what is changed in those copies is lost.
    """
    for module in model.modules():
        if isinstance(module, FSDPModule):
            module.reshard()


def count_numbers(weight: Tensor) -> int:
    """How many numbers a weight has, over all processes."""
    # ZeRO-3 leaves an empty tensor where a weight was, and the figure beside it.
    return int(vars(weight)["ds_numel"]) if _is_partitioned(weight) else weight.numel()


def count_own_bytes(tensors: Iterable[Tensor]) -> int:
    """The bytes of what this process holds of some tensors."""
    return sum(get_own_part(tensor).nbytes for tensor in tensors)


def iterate_whole(weights: Iterable[tuple[str, Tensor]]) -> Iterator[tuple[str, Tensor]]:
    """Yield each weight whole, on its device, one at a time; every process calls it, and takes all of them."""
    for name, weight in weights:
        if isinstance(weight, DTensor):
            yield name, weight.full_tensor().detach()
        elif _is_partitioned(weight):
            from deepspeed.runtime.zero import GatheredParameters  # an extra

            with GatheredParameters([weight]):
                yield name, weight.detach()
        else:
            yield name, weight.detach()


@torch.no_grad()
def put_whole(weight: Tensor, value: Tensor | None) -> None:
    """Set a weight to what rank 0 gives as `value`; every rank calls it, the others with None."""
    if isinstance(weight, DTensor):
        given = torch.empty(weight.shape, dtype=weight.dtype, device=weight.device) if value is None else value
        parts = distribute_tensor(given.to(weight.device, weight.dtype), weight.device_mesh, weight.placements)
        weight.to_local().copy_(parts.to_local())
    elif _is_partitioned(weight):
        from deepspeed.runtime.zero import GatheredParameters  # an extra

        with GatheredParameters([weight], modifier_rank=0):
            if value is not None:
                weight.copy_(value)
    else:
        if value is not None:
            weight.copy_(value)
        dist.broadcast(weight.detach(), src=0)


@torch.no_grad()
def change_whole(weight: Tensor, change: Callable[[Tensor], Tensor]) -> None:
    """Set a weight, split or not, to what `change` makes of the whole of it; every process, behind `split_again`.

    `change` gets all of it on each of them, (out, in) of a linear layer, and returns as much.
    """
    if not (isinstance(weight, DTensor) or _is_partitioned(weight)):
        weight.copy_(change(weight))
        return
    [changed] = [change(whole) for _, whole in iterate_whole([("", weight)])]
    put_whole(weight, changed)


def bind_to(model: nn.Module, method: Callable[..., Result]) -> Callable[..., Result]:
    """A method of a part of a model, called so that FSDP2 gathers weights as for the forward of the whole.

    Of a model that is not split by FSDP2 it is the method itself.
    """
    if not isinstance(model, FSDPModule):
        return method
    # torch wraps what is an attribute of the module that is split: of an adapter's base that is the adapter.
    vars(model)[BOUND] = method
    register_fsdp_forward_method(model, BOUND)
    bound: Callable[..., Result] = vars(model).pop(BOUND)
    return bound


@contextmanager
def as_own_class(model: nn.Module) -> Iterator[None]:
    """Within the block a model is of the class of which it was made, and not of the one that FSDP2 derives from it."""
    # transformers (5.23) saves the code of a custom model by its class, which would be torch's own files.
    derived: Any = type(model)
    if isinstance(model, FSDPModule):
        own: Any = next(each for each in derived.__bases__ if not issubclass(each, FSDPModule))
        model.__class__ = own
    try:
        yield
    finally:
        model.__class__ = derived


def get_own_part(weight: Tensor) -> Tensor:
    """What this process holds of a weight or gradient, in its memory; under ZeRO-3 a flat piece."""
    if isinstance(weight, DTensor):
        return weight.to_local()
    if _is_partitioned(weight):
        own: Any = vars(weight)["ds_tensor"]
        return own if isinstance(own, Tensor) else torch.empty(0)
    return weight


def _is_partitioned(weight: Tensor) -> bool:
    """Whether ZeRO-3 has split a weight over the processes."""
    return "ds_numel" in vars(weight)
