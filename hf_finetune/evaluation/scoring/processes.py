"""Work shared by the processes of a launch, such that its results are the same for any number of them."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any, TypeVar

import torch
from accelerate import PartialState
from accelerate.utils import gather_object

Batch = TypeVar("Batch")
Result = TypeVar("Result")


def join_processes() -> PartialState:
    """This process among those of the launch; one alone where there was none. To be called before anything is loaded.

    Models go to the accelerator where there is one, and the processes meet there; on a machine without one
    `PartialState` would take each of two processes for the only one.
    """
    return PartialState(cpu=not torch.accelerator.is_available())


def process_facts() -> dict[str, Any]:
    """The `distributed` part of a report: what really ran."""
    state = PartialState()
    return {
        "strategy": state.distributed_type.value,
        "processes": state.num_processes,
        "backend": state.backend,
        "device": state.device.type,
        "threads_per_process": torch.get_num_threads(),
    }


def shared_work(batches: Sequence[Batch], work: Callable[[Batch], list[Result]]) -> list[Result]:
    """`work` of every batch, one after the other; each process does its share of them, and all get all results.

    Batches are what they are for one process: a row's figures depend on those that it is padded with, by rounding. The
    results come in an order of their own, so each has to say what it is of.
    """
    state = PartialState()
    mine = batches[state.process_index :: state.num_processes]
    results = [result for batch in mine for result in work(batch)]
    gathered: list[Any] = gather_object(results) if state.num_processes > 1 else results
    return gathered
