"""What a launch asks for, and what the prepared model really is: no run trains otherwise than it was asked to."""

from __future__ import annotations

import os
from dataclasses import dataclass
from typing import Any

from accelerate.utils import gather_object
from torch import Tensor
from torch.distributed.fsdp import CPUOffloadPolicy
from torch.nn.parallel import DistributedDataParallel
from transformers import Trainer

from hf_finetune.config.checks.launch.engine import engine_of_launch
from hf_finetune.errors import ConfigError, Problem
from hf_finetune.models.weights.sharding import count_own_bytes, get_own_part, is_sharded, split_again
from hf_finetune.training.sharding.zero import list_copies, list_flat_parts

# As `distributed` of report.json names them.
ONE, DDP, FSDP2 = "NO", "DDP", "FSDP2"


@dataclass(frozen=True, slots=True)
class Sharding:
    """How a model is trained by several processes, and what one of them holds of it, in bytes."""

    strategy: str
    """NO, DDP, FSDP2, or ZERO with its stage."""
    parameter_bytes: int
    gradient_bytes: int
    """Of a whole step, before the optimizer takes it."""
    optimizer_bytes: int
    """0 before the first step."""


def describe_asked(trainer: Trainer) -> str:
    """What the run file and `accelerate launch` ask for: `FSDP2 in bf16, offloaded`."""
    args: Any = trainer.args
    precision = "bf16" if args.bf16 else "fp16" if args.fp16 else "no"
    return _describe(_find_asked(trainer), precision, offloads=_asks_to_offload(trainer))


def describe_found(trainer: Trainer) -> str:
    """What was prepared, in the same words."""
    model, state = trainer.model, trainer.accelerator.state
    precision = state.mixed_precision
    if trainer.is_deepspeed_enabled:  # accelerate leaves it to the engine
        engine: Any = trainer.model_wrapped
        precision = "bf16" if engine.bfloat16_enabled() else "fp16" if engine.fp16_enabled() else "no"
    offloads = trainer.is_fsdp_enabled and all(each.device.type == "cpu" for each in model.parameters())  # type: ignore[union-attr]
    if trainer.args.device.type == "cpu":  # where nothing can be seen of it
        offloads = _asks_to_offload(trainer)
    return _describe(find_sharding(trainer).strategy, precision, offloads=offloads)


def _describe(strategy: str, precision: str, *, offloads: bool) -> str:
    kind = "float32" if precision == "no" else precision
    return f"{strategy} in {kind}{', offloaded' if offloads else ''}"


def _asks_to_offload(trainer: Trainer) -> bool:
    """By the launch or by train.fsdp_config, of both of which accelerate's plugin is made."""
    plugin: Any = trainer.accelerator.state.fsdp_plugin if trainer.is_fsdp_enabled else None
    return plugin is not None and isinstance(plugin.cpu_offload, CPUOffloadPolicy)


def _find_asked(trainer: Trainer) -> str:
    """As `Sharding.strategy` has it."""
    args: Any = trainer.args
    engine = engine_of_launch(os.environ)
    if trainer.is_deepspeed_enabled:  # the plugin has what the run file says, too
        plugin: Any = trainer.accelerator.state.deepspeed_plugin
        return f"ZERO{plugin.zero_stage}"
    if engine is not None and engine.name == "deepspeed":
        return f"ZERO{engine.number}"
    if args.fsdp or engine is not None:
        return FSDP2
    return DDP if args.world_size > 1 else ONE


def find_sharding(trainer: Trainer) -> Sharding:
    """What the model and the optimizer of a Trainer really are, by looking at them; once they are prepared."""
    model: Any = trainer.model
    split_again(model)
    weights = list(model.parameters())
    trained = [weight for weight in weights if weight.requires_grad]
    if trainer.is_deepspeed_enabled:
        engine: Any = trainer.model_wrapped
        zero: Any = trainer.optimizer.optimizer  # type: ignore[union-attr]
        return Sharding(
            f"ZERO{engine.zero_optimization_stage()}",
            count_own_bytes(weights),
            sum(each.nbytes for each in list_flat_parts(zero)),
            sum(each.nbytes for each in list_copies(zero)) + _count_states(zero.optimizer),
        )
    wrapped: Any = trainer.model_wrapped
    wrapped = getattr(wrapped, "_orig_mod", wrapped)  # of torch.compile
    # The last of several processes (--max-restarts) is one in a group of its own, which accelerate wraps all the same.
    shared = isinstance(wrapped, DistributedDataParallel) and wrapped.process_group.size() > 1
    kind = FSDP2 if is_sharded(model) else DDP if shared else ONE
    optimizer: Any = trainer.optimizer
    return Sharding(kind, count_own_bytes(weights), count_own_bytes(trained), _count_states(optimizer))


def check_honored(trainer: Trainer) -> None:
    """Raise `ConfigError` where the prepared model is not what was asked for; every rank calls it.

    Raises `RuntimeError` where the optimizer would train one weight in the place of another, or a process has not been
    sent the weights of the first.
    """
    asked, found = describe_asked(trainer), describe_found(trainer)
    groups = [] if trainer.optimizer is None else trainer.optimizer.param_groups
    trained = [id(weight) for group in groups for weight in group["params"]]
    if len(set(trained)) < len(trained):  # so it was of weights that are on the meta device when accelerate comes
        raise RuntimeError(f"of {len(trained)} weights the optimizer has {len(set(trained))}")
    if trainer.is_fsdp_enabled:
        _check_sent(trainer)
    if asked == found:
        return
    what = f"{asked} was asked for, and what was prepared is {found}"
    remedy = (
        "name another launch file (--on), or mend this one; the precision is the run file's (train.bf16, train.fp16)"
    )
    raise ConfigError(Problem(what, remedy, key="accelerate launch", code="HF689"))


def _check_sent(trainer: Trainer) -> None:
    """Raise `RuntimeError` where a process has nothing but the zeros that it made room with; every rank calls it."""
    # accelerate (1.15) sends weights where its plugin says so, and those who load go by the environment.
    model: Any = trainer.model
    parts = [get_own_part(weight) for weight in model.parameters()]
    has_weights: list[bool] = gather_object(
        [any(bool(part.any()) for part in parts) or not sum(part.numel() for part in parts)]
    )
    if not all(has_weights):
        raise RuntimeError(f"process {has_weights.index(False)} was not sent the weights of the first")


def describe_bytes(trainer: Trainer) -> dict[str, Any]:
    """What one process holds, for `distributed` of report.json; once training is over and the optimizer still there."""
    found = find_sharding(trainer)
    return {
        "strategy": found.strategy,
        "bytes_per_process": {
            "parameters": found.parameter_bytes,
            "gradients": found.gradient_bytes,
            "optimizer": found.optimizer_bytes,
        },
    }


def _count_states(optimizer: Any) -> int:
    return count_own_bytes(
        each for state in optimizer.state.values() for each in state.values() if isinstance(each, Tensor)
    )
