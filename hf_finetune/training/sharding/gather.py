"""The weights and the optimizer of a model that is split over processes: whole on the one that saves, and back.

What is saved is then what a single process saves, and a run goes on from it with any number of processes.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from typing import Any, TypeVar

import torch
from accelerate.optimizer import AcceleratedOptimizer
from torch import Tensor
from torch.distributed.tensor import DTensor, distribute_tensor
from torch.optim import Optimizer
from transformers import Trainer

from hf_finetune.environment.processes import raise_together
from hf_finetune.errors import FinetuneError
from hf_finetune.models.classification_head import unwrap_adapter
from hf_finetune.models.weights.sharding import iterate_whole, put_whole
from hf_finetune.training.sharding.zero import describe_groups, gather_state, list_shapes, put_state, split_weights

Result = TypeVar("Result")


def is_split(trainer: Trainer) -> bool:
    """Whether weights or optimizer of a Trainer are split over the processes, by FSDP or DeepSpeed."""
    return bool(trainer.is_fsdp_enabled or trainer.is_deepspeed_enabled)


def split_early(trainer: Trainer) -> None:
    """Split the weights of a model that DeepSpeed is to split (ZeRO-3), before it is prepared; every rank calls it."""
    plugin: Any = trainer.accelerator.state.deepspeed_plugin
    if plugin.zero_stage == 3:
        args: Any = trainer.args
        dtype = torch.bfloat16 if args.bf16 else torch.float16 if args.fp16 else torch.float32
        model: Any = trainer.model
        split_weights(model, plugin.deepspeed_config, dtype, args.device)


def gather_weights(trainer: Trainer) -> dict[str, Tensor]:
    """What is saved of a model, by the names of its `state_dict`, whole and on the CPU; every rank calls it.

    Of an adapter only what is trained. {} on ranks that do not save.
    """
    # A tensor that has two names is gathered once and stays one, so that it is saved once.
    whole: dict[int, Tensor] = {}
    once, keeps = _list_once(trainer), trainer.args.should_save
    for number, (_, gathered) in zip(once, iterate_whole(once.values()), strict=True):
        if keeps:
            whole[number] = gathered.to("cpu", copy=True)
    return {name: whole[id(weight)] for name, weight in _list_saved(trainer)} if keeps else {}


def save_whole(trainer: Trainer, folder: str) -> dict[str, Tensor]:
    """Save a model that is split as a whole one is, and return its weights, of any shape; every rank calls it."""
    whole = gather_weights(trainer)
    # A copy: what is written is taken out of it.
    on_one(trainer.args.should_save, lambda: trainer._save(folder, state_dict=dict(whole)))
    return whole


def scatter_weights(trainer: Trainer, whole: Mapping[str, Tensor]) -> None:
    """Put weights that `gather_weights` has returned, of any shape, and that were changed since, back on every rank."""
    for name, weight in _list_once(trainer).values():
        put_whole(weight, whole.get(name))


def _list_once(trainer: Trainer) -> dict[int, tuple[str, Tensor]]:
    return {id(weight): (name, weight) for name, weight in _list_saved(trainer)}


def _list_saved(trainer: Trainer) -> Iterator[tuple[str, Tensor]]:
    model: Any = trainer.accelerator.unwrap_model(trainer.model)
    of_adapter = unwrap_adapter(model) is not model
    for name, weight in model.state_dict(keep_vars=True).items():
        if isinstance(weight, Tensor) and (not of_adapter or weight.requires_grad):
            yield name, weight


def gather_optimizer(trainer: Trainer) -> dict[str, Any]:
    """The state of the optimizer as on one process; every rank calls it, and those that do not save get none."""
    keeps, optimizer = trainer.args.should_save, _unwrap(trainer.optimizer)
    if trainer.is_deepspeed_enabled:
        return gather_state(optimizer, keeps=keeps)
    state = optimizer.state_dict()
    found: dict[int, dict[str, Any]] = {}
    for number, values in state["state"].items():
        found[number] = {name: _gather(value, keeps=keeps) for name, value in values.items()}
    return {**state, "state": found if keeps else {}}


def _gather(value: Any, *, keeps: bool) -> Any:
    if not isinstance(value, DTensor):
        # A copy: it is written while the next steps count on.
        return value.clone() if isinstance(value, Tensor) else value
    whole = value.full_tensor()  # every rank
    return whole.cpu() if keeps else None


def put_optimizer(trainer: Trainer, state: dict[str, Any]) -> None:
    """Put back the `state` of an optimizer as on one process, which every rank has read; each takes its part."""
    optimizer = _unwrap(trainer.optimizer)
    if trainer.is_deepspeed_enabled:
        put_state(optimizer, state)
        return
    parameters = [each for group in optimizer.param_groups for each in group["params"]]
    parts = {
        number: {name: _shard_like(value, parameters[number]) for name, value in values.items()}
        for number, values in state["state"].items()
    }
    optimizer.load_state_dict({**state, "state": parts})


def describe_optimizer(optimizer: Any, *, engine: bool) -> tuple[Optimizer, list[dict[str, Any]], list[torch.Size]]:
    """The optimizer of torch, its groups as `state_dict` has them, and the shapes of its parameters, whole.

    `engine`: it is one of DeepSpeed.
    """
    inner = _unwrap(optimizer)
    if engine:
        return inner.optimizer, describe_groups(inner), list_shapes(inner)
    parameters = (each for group in inner.param_groups for each in group["params"])
    return inner, inner.state_dict()["param_groups"], [each.shape for each in parameters]


def _unwrap(optimizer: Any) -> Any:
    """What accelerate has wrapped."""
    return optimizer.optimizer if isinstance(optimizer, AcceleratedOptimizer) else optimizer


def _shard_like(value: Any, parameter: Tensor) -> Any:
    if not isinstance(value, Tensor):
        return value
    # It is a view of the file, which memory maps, and on a CPU the part of this rank would be one, too.
    if not isinstance(parameter, DTensor) or value.shape != parameter.shape:
        return value.clone()
    on_device = value.to(parameter.device)
    return distribute_tensor(on_device, parameter.device_mesh, parameter.placements, src_data_rank=None).clone()


def on_one(does: bool, work: Callable[[], Result]) -> Result | None:
    """Do what one rank alone does, as writing; every rank calls it. None on the others.

    What the rank is refused for is raised on all of them: they would wait for it.
    """
    problem: Exception | None = None
    done: Result | None = None
    if does:
        try:
            done = work()
        except (FinetuneError, OSError) as refused:
            problem = refused
    raise_together(problem)
    return done
