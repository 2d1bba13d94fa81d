"""The states of the random generators of a process, as plain values and tensors."""

from __future__ import annotations

import random
from typing import Any

import numpy as np
import torch


def read_random_state() -> dict[str, Any]:
    """The states of Python's, NumPy's and torch's generators, those of this process's GPUs included."""
    name, keys, position, has_gauss, cached = np.random.get_state(legacy=True)
    # NumPy's keys are uint32, a type for which torch (2.13) has few operations: int64 holds them.
    state = {
        "python": random.getstate(),
        "numpy": (str(name), torch.from_numpy(np.asarray(keys).astype(np.int64)), position, has_gauss, cached),
        "torch": torch.get_rng_state(),
    }
    if torch.cuda.is_available():
        state["cuda"] = torch.cuda.get_rng_state_all()
    return state


def restore_random_state(state: dict[str, Any]) -> None:
    """Put back what `read_random_state` has returned; of another number of GPUs, as many as there are."""
    # Each generator by itself: dropout draws from torch's, libraries from Python's and NumPy's.
    random.setstate(state["python"])
    name, keys, *rest = state["numpy"]
    np.random.set_state((name, keys.numpy().astype(np.uint32), *rest))
    torch.set_rng_state(state["torch"])
    if torch.cuda.is_available():
        for device, each in zip(range(torch.cuda.device_count()), state.get("cuda", ()), strict=False):
            torch.cuda.set_rng_state(each, device)
