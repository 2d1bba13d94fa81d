"""Weights that the first process of a launch has, and sends to the others when the model is prepared for training."""

from __future__ import annotations

import mmap
import os
from collections.abc import Callable, Mapping
from contextlib import nullcontext
from typing import Any, TypeVar

import torch
from accelerate import PartialState
from accelerate.utils import broadcast_object_list
from torch import Tensor, nn
from transformers import PreTrainedConfig, PreTrainedModel

from hf_finetune.config.checks.launch.engine import engine_of_launch
from hf_finetune.environment.hardware import TRUE
from hf_finetune.environment.processes import raise_together
from hf_finetune.errors import FinetuneError

Loaded = TypeVar("Loaded", bound=PreTrainedModel)


def load_on_first(
    load: Callable[[dict[str, Any]], Loaded], config: PreTrainedConfig, options: dict[str, Any]
) -> Loaded:
    """Return what `load` makes of `options`, as keywords of `from_pretrained`; every process calls it.

    Where the first process sends its weights later (`sends_weights`), it alone reads them. The others get the same
    model of zeros, which take no memory until they are written, and nothing may be computed with it before training has
    begun. What one of them is refused for is raised on all.
    """
    if not sends_weights(config, options):
        return load(options)
    first = PartialState().is_main_process
    refused: FinetuneError | None = None
    try:
        # On the meta device nothing is read but names and shapes: transformers' checks of the files are the same.
        loaded = load(options if first else options | {"device_map": {"": "meta"}})
    except FinetuneError as problem:
        refused = problem
    raise_together(refused)
    give_room(loaded)
    _send_buffers(loaded)
    return loaded


def draw_on_first(draw: Callable[[], Loaded], config: PreTrainedConfig, options: Mapping[str, Any]) -> Loaded:
    """Return what `draw` makes, a model of random weights; every process calls it, with the generators alike.

    As `load_on_first`: where the first process sends its weights later, it alone draws them. The generator of torch is
    behind it that of the first process on all, as if each had drawn. `options` are those of the model.
    """
    if not sends_weights(config, options):
        return draw()
    first = PartialState().is_main_process
    with nullcontext() if first else torch.device("meta"):
        drawn = draw()
    give_room(drawn)
    _send_buffers(drawn)
    # Nothing is drawn on a meta device, so that the next numbers, as those of dropout, would be others.
    [behind] = broadcast_object_list([torch.get_rng_state() if first else None])
    torch.set_rng_state(behind)
    return drawn


def sends_weights(config: PreTrainedConfig, options: Mapping[str, Any]) -> bool:
    """Whether the first of several processes sends the others its weights as the model is prepared.

    DDP and DeepSpeed do; FSDP2 where the launch says so, and no engine those that are quantized.
    """
    if PartialState().num_processes == 1:
        return False
    if "quantization_config" in options or getattr(config, "quantization_config", None) is not None:
        return False
    engine = engine_of_launch(os.environ)
    # What transformers (5.23) and accelerate (1.15) go by: without it FSDP2 leaves each process what it has.
    return (
        engine is None or engine.name != "fsdp" or os.environ.get("FSDP_CPU_RAM_EFFICIENT_LOADING", "").lower() in TRUE
    )


def give_room(model: nn.Module) -> None:
    """Put the weights of a model that are on the meta device into memory, as zeros; one of two names stays one.

    They cannot stay there: accelerate (1.15) finds what the optimizer is to train by where it is in memory, which of
    all of these is 0, so that it would train the last of them alone.
    """
    made: dict[int, nn.Parameter] = {}
    kept: list[Tensor] = []
    for module in model.modules():
        for name, weight in module.named_parameters(recurse=False):
            if weight.is_meta:
                if id(weight) not in made:
                    made[id(weight)] = nn.Parameter(make_zeros(weight), requires_grad=weight.requires_grad)
                kept.append(weight)  # or the next one might get its number
                setattr(module, name, made[id(weight)])


def make_zeros(weight: Tensor, dtype: torch.dtype | None = None) -> Tensor:
    """Zeros of the shape of a weight, (out, in) of a linear layer, on the CPU; of its precision where none is named."""
    dtype = dtype or weight.dtype
    if not weight.numel():
        return torch.zeros(weight.shape, dtype=dtype)
    # Pages of zeros, which the system gives as they are written: torch (2.13) writes zeros itself, so does the heap.
    pages = mmap.mmap(-1, weight.numel() * dtype.itemsize, flags=mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS)
    return torch.frombuffer(pages, dtype=dtype).view(weight.shape)


def _send_buffers(model: nn.Module) -> None:
    """Give each process the buffers of the first one: no engine sends all of them, and they are small."""
    places = [(module, name) for module in model.modules() for name, _ in module.named_buffers(recurse=False)]
    first = PartialState().is_main_process
    sent = [[getattr(module, name).cpu() for module, name in places] if first else None]
    [values] = broadcast_object_list(sent)
    if not first:
        for (module, name), value in zip(places, values, strict=True):
            setattr(module, name, value)
