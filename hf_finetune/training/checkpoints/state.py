"""The state of a Trainer beside its weights: what is written into a checkpoint, and how it is put back.

state.json, state.safetensors   optimizer, schedule, loss scale, random generators of each rank, sums of the log,
                                callbacks
trainer_state.json              step, log and best value, as transformers writes it
"""

from __future__ import annotations

import copy
import json
from collections.abc import Callable, Collection, Iterable
from pathlib import Path
from typing import Any, Protocol, runtime_checkable

import torch
from accelerate.utils import gather_object
from safetensors import safe_open
from torch import Tensor
from torch.optim.lr_scheduler import LambdaLR
from transformers import EarlyStoppingCallback, Trainer, TrainerState

from hf_finetune.errors import ModelError, Problem
from hf_finetune.folders import RESUME
from hf_finetune.training.checkpoints.codec import DICT, decode_state, encode_state
from hf_finetune.training.checkpoints.random_state import restore_random_state

STATE, STATE_TENSORS = "state.json", "state.safetensors"
OPTIMIZER_TENSORS = "state.optimizer."
"""With which the names of the optimizer's tensors begin."""
STATE_PARTS = frozenset({"optimizer", "schedule", "scaler", "ranks", "callbacks", "beside"})
# What the settings decide of a group of parameters, beside its rate. Its other values are the optimizer's own.
_OF_THE_SETTINGS = ("initial_lr", "weight_decay", "betas", "eps")


@runtime_checkable
class Resumable(Protocol):
    """A callback with a state of its own that a resumed run goes on from: plain JSON values."""

    def save_state(self) -> Any: ...

    def restore_state(self, state: Any) -> None: ...


@runtime_checkable
class ReadsCheckpoints(Protocol):
    """A callback whose `on_save` reads the checkpoint: training waits until it is written."""

    reads_checkpoints: bool


def read_state(trainer: Trainer, rank: dict[str, Any], beside: dict[str, Tensor]) -> tuple[Any, dict[str, Tensor]]:
    """The state of a run as JSON and tensors; every rank calls it, and rank 0 gets that of all.

    `rank` is what differs between ranks, its random generators among it, `beside` weights that are in no file of
    weights. Raises `ModelError` where the optimizer or the schedule keeps what no checkpoint can hold.
    """
    optimizer, schedule, scaler = _get_parts(trainer)
    state = {
        "optimizer": optimizer.state_dict(),
        "schedule": schedule.state_dict(),
        "scaler": None if scaler is None else scaler.state_dict(),
        **_read_counts(trainer, rank),
        "beside": beside,
    }
    tensors: dict[str, Tensor] = {}
    try:
        return encode_state(state, "state", tensors), tensors
    except TypeError as problem:
        what = f"{type(optimizer).__name__} has a state that no checkpoint can hold ({problem})"
        raise ModelError(Problem(what, "name another train.optim, or set train.save_strategy: no")) from problem


def read_counts(trainer: Trainer, rank: dict[str, Any]) -> tuple[Any, dict[str, Tensor]]:
    """The same without optimizer, schedule and weights, which an engine saves itself; every rank calls it."""
    tensors: dict[str, Tensor] = {}
    return encode_state(_read_counts(trainer, rank), "state", tensors), tensors


def load_state(checkpoint: Path, without: Collection[str] = ()) -> dict[str, Any]:
    """What `read_state` has returned for the checkpoint, less some of its parts."""
    encoded = json.loads((checkpoint / STATE).read_text(encoding="utf-8"))
    encoded[DICT] = [part for part in encoded[DICT] if part[0] not in without]
    with safe_open(checkpoint / STATE_TENSORS, framework="pt") as file:
        # Cloned: what the file gives is a view of it, and it may be removed or damaged while it is trained on.
        state: dict[str, Any] = decode_state(encoded, lambda name: file.get_tensor(name).clone())
    return state


def restore_optimizer(trainer: Trainer, state: dict[str, Any]) -> None:
    """Put back the states of optimizer, schedule and loss scale; rates, decay and betas are those of now."""
    optimizer, schedule, scaler = _get_parts(trainer)
    asked = [{name: group[name] for name in _OF_THE_SETTINGS if name in group} for group in optimizer.param_groups]
    try:
        optimizer.load_state_dict(state["optimizer"])
    except (ValueError, KeyError) as problem:
        what = "the state of the optimizer is of another optimizer, or of other weights"
        remedy = "set train.optim, model and lora as they were: see run.yaml"
        raise ModelError(Problem(what, remedy, key=RESUME)) from problem
    schedule.load_state_dict(state["schedule"])
    if isinstance(schedule, LambdaLR):  # others keep a rate of their own
        _apply_settings(optimizer, schedule, asked)
    if scaler is not None and state["scaler"] is not None:
        scaler.load_state_dict(state["scaler"])


def _apply_settings(optimizer: Any, schedule: LambdaLR, asked: list[dict[str, Any]]) -> None:
    """Let the settings of now hold from the next step on: where they are as they were, nothing changes by a bit."""
    for group, settings, rate in zip(optimizer.param_groups, asked, schedule.lr_lambdas, strict=True):
        group.update(settings)
        group["lr"] = group["initial_lr"] * rate(schedule.last_epoch)
    schedule.base_lrs = [group["initial_lr"] for group in optimizer.param_groups]
    schedule._last_lr = [group["lr"] for group in optimizer.param_groups]


def restore_random(trainer: Trainer, state: dict[str, Any]) -> None:
    """Put back the random generators of this rank; of a run with fewer processes, its own stay as they are."""
    if trainer.args.process_index < len(state["ranks"]):
        restore_random_state(state["ranks"][trainer.args.process_index]["random"])


def restore_callbacks(callbacks: Iterable[Any], saved: dict[str, Any]) -> None:
    """Put back what the callbacks had counted, kept or drawn."""
    for callback in callbacks:
        state = saved.get(type(callback).__name__)
        if state is not None and isinstance(callback, Resumable):
            callback.restore_state(state)
        elif state is not None and isinstance(callback, EarlyStoppingCallback):
            callback.early_stopping_patience_counter = state


def describe_trainer(state: TrainerState) -> Callable[[], bytes]:
    """trainer_state.json of this moment, made when it is written: its log grows with the run."""
    kept = copy.copy(state)
    kept.log_history = list(state.log_history)
    kept.stateful_callbacks = copy.deepcopy(state.stateful_callbacks)
    # A path of this machine: in a folder that was moved it leads nowhere, or to another run's. Its step says all.
    kept.best_model_checkpoint = None
    return lambda: (json.dumps(vars(kept), indent=2, sort_keys=True) + "\n").encode()


def _read_counts(trainer: Trainer, rank: dict[str, Any]) -> dict[str, Any]:
    # Rank 0 writes for all: on several machines the others may not see its folder.
    return {"ranks": gather_object([rank]), "callbacks": _read_callbacks(trainer.callback_handler.callbacks)}


def _read_callbacks(callbacks: Iterable[Any]) -> dict[str, Any]:
    states: dict[str, Any] = {}
    for callback in callbacks:
        if isinstance(callback, Resumable):
            states[type(callback).__name__] = callback.save_state()
        elif isinstance(callback, EarlyStoppingCallback):
            states[type(callback).__name__] = callback.early_stopping_patience_counter
    return states


def _get_parts(trainer: Trainer) -> tuple[Any, Any, torch.amp.GradScaler | None]:
    """Optimizer, schedule and loss scale: there once training has begun."""
    return trainer.optimizer, trainer.lr_scheduler, trainer.accelerator.scaler
