"""The processes of a launch, as accelerate runs them."""

from __future__ import annotations

import os
from typing import Any

import torch
from accelerate import PartialState
from accelerate.utils import gather_object

from hf_finetune.ranks import describe_self, keep_connections_watched, remember_processes


def init_processes() -> PartialState:
    """Initialize `PartialState`; call it before a model is loaded. Without a launch it is a single process."""
    # Without an accelerator, `PartialState()` takes each of two processes for the only one, unless told `cpu=True`
    # (accelerate 1.15; related: https://github.com/huggingface/accelerate/issues/2741). DeepSpeed finds its processes
    # itself, on the CPU under DS_ACCELERATOR=cpu.
    by_deepspeed = os.environ.get("ACCELERATE_USE_DEEPSPEED") == "true"
    return PartialState(cpu=not (torch.accelerator.is_available() or by_deepspeed))


def know_processes() -> None:
    """Let each process of the run know the others, to say which is gone. Every process calls it, at once."""
    state = PartialState()
    if state.num_processes > 1:
        keep_connections_watched()
        remember_processes(gather_object([describe_self(state.process_index)]))


def describe_processes(state: Any = None) -> dict[str, Any]:
    """Describe how the work was really distributed: the `distributed` part of the report.

    `state`: the `AcceleratorState` of a Trainer, which alone knows its sharding and precision; else `PartialState()`.
    """
    state = state or PartialState()
    return {
        "strategy": state.distributed_type.value,
        "processes": state.num_processes,
        "backend": state.backend,
        "device": state.device.type,
        "threads_per_process": torch.get_num_threads(),
        **({"mixed_precision": state.mixed_precision} if hasattr(state, "mixed_precision") else {}),
    }
