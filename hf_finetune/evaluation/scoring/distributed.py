"""Work distributed over the processes of a launch; its results do not depend on their number."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any, TypeVar

import torch
from accelerate import PartialState
from accelerate.utils import gather_object

Batch = TypeVar("Batch")
Result = TypeVar("Result")


def init_processes() -> PartialState:
    """Initialize `PartialState`; call it before a model is loaded. Without a launch it is a single process."""
    # Without an accelerator, `PartialState()` takes each of two processes for the only one, unless told `cpu=True`
    # (accelerate 1.15; related: https://github.com/huggingface/accelerate/issues/2741).
    return PartialState(cpu=not torch.accelerator.is_available())


def describe_processes() -> dict[str, Any]:
    """Return `distributed` of the report: what was really used."""
    state = PartialState()
    return {
        "strategy": state.distributed_type.value,
        "processes": state.num_processes,
        "backend": state.backend,
        "device": state.device.type,
        "threads_per_process": torch.get_num_threads(),
    }


def distribute_work(batches: Sequence[Batch], work: Callable[[Batch], list[Result]]) -> list[Result]:
    """Apply `work` to every batch; each process does its share of the batches, and all get all results.

    The results come in any order, so each must say which item it is of.
    """
    # The batches are those of a single process: rounding makes the logits of a row depend on the rows it is padded
    # with. 5 batches, 2 processes: one does 0, 2 and 4, the other 1 and 3.
    state = PartialState()
    mine = batches[state.process_index :: state.num_processes]
    results = [result for batch in mine for result in work(batch)]
    gathered: list[Any] = gather_object(results) if state.num_processes > 1 else results
    return gathered
