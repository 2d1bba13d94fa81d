"""What a checkpoint says beside its weights, as a run of one process has it: for folders that are made by hand."""

from __future__ import annotations

import json
import random
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
from safetensors.numpy import save

STATE, STATE_TENSORS, TRAINER_STATE = "state.json", "state.safetensors", "trainer_state.json"


def describe_trainer(step: int, planned: int = 60) -> dict[str, Any]:
    seen = {"rows": 8 * step, "tokens": 90 * step, "trained_tokens": 70 * step}
    return {
        "epoch": step / 10,
        "global_step": step,
        "max_steps": planned,
        "log_history": [{"epoch": each / 10, "loss": 6.0 / each, "step": each} for each in range(1, step + 1)],
        "stateful_callbacks": {"hf_finetune_seen": seen},
    }


def describe_state() -> tuple[Any, dict[str, np.ndarray]]:
    """state.json, and the tensors that it names."""
    tensors = {
        "state.since_logged": np.zeros((), np.float32),
        "state.numpy": np.zeros(624, np.int64),
        "state.torch": np.zeros(5056, np.uint8),
        "state.exp_avg": np.zeros(3, np.float32),
    }
    version, keys, gauss = random.Random(0).getstate()
    states = {
        "python": {"tuple": [version, {"tuple": list(keys)}, gauss]},
        "numpy": {"tuple": ["MT19937", {"tensor": "state.numpy"}, 624, 0, 0.0]},
        "torch": {"tensor": "state.torch"},
    }
    rank = {
        "since_logged": {"tensor": "state.since_logged"},
        "total": 0.5,
        "logged_step": 0,
        "initial_step": 0,
        "runtime_s": 1.5,
        "stops": False,
        "random": _pair(states),
        "left": _pair({"evaluate": False, "save": False, "epoch_end": False}),
    }
    group = _pair({"lr": 0.1, "betas": {"tuple": [0.9, 0.999]}, "params": [0]})
    sample = {"step": 0, "prompt": "How?", "continuation": "So.", "tokens": 2, "finished": True, "seed": 0}
    watch = {"first": [6.0], "recent": [], "had_gradient": True, "in_a_row": _pair({"loss": 0}), "warned": []}
    callbacks = {
        "LogLines": _pair({"training_seconds": 0.5, "joules": 0.0}),
        "SamplePrompts": [_pair(sample | {"prompt_tokens_cut": 0})],
        "TrainingGuard": _pair({"skipped": [], "watch": _pair(watch)}),
        "EarlyStoppingCallback": 1,
    }
    state = {
        "optimizer": _pair(
            {"state": _pair({0: _pair({"exp_avg": {"tensor": "state.exp_avg"}})}), "param_groups": [group]}
        ),
        "schedule": _pair({"base_lrs": [0.1], "last_epoch": 2}),
        "scaler": None,
        "ranks": [_pair(rank)],
        "callbacks": _pair(callbacks),
        "beside": _pair({}),
    }
    return _pair(state), tensors


def make_records(step: int, planned: int = 60) -> dict[str, bytes]:
    """The content of each file of a checkpoint beside its weights."""
    state, tensors = describe_state()
    written = {TRAINER_STATE: describe_trainer(step, planned), STATE: state}
    return {name: json.dumps(value).encode() for name, value in written.items()} | {STATE_TENSORS: save(tensors)}


def put_records(checkpoint: Path, step: int, planned: int = 60) -> None:
    for name, content in make_records(step, planned).items():
        (checkpoint / name).write_bytes(content)


def _pair(values: Mapping[Any, Any]) -> dict[str, Any]:
    """An object as state.json has it."""
    return {"dict": [[key, value] for key, value in values.items()]}
