"""The generators of random numbers, given back as they were: what a run measures must not change what it trains."""

from __future__ import annotations

import random
from collections.abc import Iterator
from contextlib import contextmanager

import numpy as np
import torch


@contextmanager
def keep_random_state(device: torch.device) -> Iterator[None]:
    """Give every random generator its state back: those of Python, NumPy, torch and `device`."""
    python, numpy = random.getstate(), np.random.get_state()
    # Not `fork_rng`, which by default asks every GPU of the machine: each process would start a context on each.
    generators = [torch.default_generator, *_list_device_generators(device)]
    states = [generator.get_state() for generator in generators]
    try:
        # Otherwise dropout draws other numbers in the first step: a data loader draws from that of the whole process.
        yield
    finally:
        random.setstate(python)
        np.random.set_state(numpy)
        for generator, state in zip(generators, states, strict=True):
            generator.set_state(state)


def _list_device_generators(device: torch.device) -> list[torch.Generator]:
    """List the generators of a device that is not the CPU: those of CUDA and of Apple's GPUs."""
    if device.type == "cuda":
        return [torch.cuda.default_generators[device.index or 0]]
    return [torch.mps._get_default_mps_generator()] if device.type == "mps" else []
