"""The state of a Trainer beside its weights: what is written into a checkpoint, and how it is put back.

state.json, state.safetensors   optimizer, schedule, loss scale, random generators of each rank, sums of the log,
                                callbacks
trainer_state.json              step, log and best value, as transformers writes it
"""

from __future__ import annotations

import copy
import json
from collections.abc import Callable, Collection, Iterable
from dataclasses import fields
from pathlib import Path
from typing import Any, Protocol, runtime_checkable

import torch
from accelerate.utils import gather_object
from safetensors import safe_open
from torch import Tensor
from torch.optim.lr_scheduler import LambdaLR
from transformers import EarlyStoppingCallback, Trainer, TrainerState

from hf_finetune.environment.processes import raise_together
from hf_finetune.errors import ModelError, Problem
from hf_finetune.folders import RESUME
from hf_finetune.folders.checkpoint_records import (
    STATE,
    STATE_TENSORS,
    find_record_faults,
)
from hf_finetune.folders.checkpoints import read_seal
from hf_finetune.folders.encoded_state import DICT, decode_state
from hf_finetune.folders.record_kinds import MAX_RECORD_BYTES, read_record
from hf_finetune.training.checkpoints.codec import encode_state
from hf_finetune.training.checkpoints.likeness import check_optimizer, is_like
from hf_finetune.training.checkpoints.random_state import restore_random_state
from hf_finetune.training.sharding.gather import describe_optimizer, gather_optimizer, put_optimizer

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


def read_state(
    trainer: Trainer, rank: dict[str, Any], beside: dict[str, Tensor], *, shards: bool = False
) -> tuple[Any, dict[str, Tensor]]:
    """The state of a run as JSON and tensors; every rank calls it, and rank 0 gets that of all.

    `rank` is what differs between ranks, its random generators among it, `beside` weights that are in no file of
    weights. `shards`: the optimizer is split over the ranks. Raises `ModelError` where optimizer or schedule keep what
    no checkpoint can hold.
    """
    optimizer, schedule, scaler = _get_parts(trainer)
    state = {
        "optimizer": gather_optimizer(trainer) if shards else optimizer.state_dict(),
        "schedule": schedule.state_dict(),
        "scaler": None if scaler is None else scaler.state_dict(),
        # Rank 0 writes for all: on several machines the others may not see its folder.
        "ranks": gather_object([rank]),
        "callbacks": _read_callbacks(trainer.callback_handler.callbacks),
        "beside": beside,
    }
    tensors: dict[str, Tensor] = {}
    encoded, problem = None, None
    try:
        encoded = encode_state(state, "state", tensors)
    except TypeError as refused:
        what = f"{type(optimizer).__name__} has a state that no checkpoint can hold ({refused})"
        problem = ModelError(Problem(what, "name another train.optim, or set train.save_strategy: no", code="HF915"))
    raise_together(problem)  # what was gathered is on one rank alone
    return encoded, tensors


def check_records(checkpoint: Path) -> None:
    """Raise `ModelError`, with all of it, where a checkpoint says what no run has written."""
    known = {field.name for field in fields(TrainerState)}
    faults = find_record_faults(checkpoint, (read_seal(checkpoint) or {}).get("step"), known)
    if faults:
        remedy = "name another checkpoint, or leave it out for the newest"
        raise ModelError([Problem(f"{checkpoint} {fault}", remedy, key=RESUME, code="HF906") for fault in faults])


def load_state(checkpoint: Path, without: Collection[str] = (), *, shards: bool = False) -> dict[str, Any]:
    """What `read_state` has returned for the checkpoint, whose records were looked at, less some of its parts.

    With `shards` the tensors of the optimizer are views of the file, of which each rank copies its part.
    """
    encoded = read_record(checkpoint / STATE, MAX_RECORD_BYTES)
    encoded[DICT] = [part for part in encoded[DICT] if part[0] not in without]
    with safe_open(checkpoint / STATE_TENSORS, framework="pt") as file:
        # Cloned: what the file gives is a view of it, and it may be removed or damaged while it is trained on.
        def read(name: str) -> Tensor:
            tensor: Tensor = file.get_tensor(name)
            return tensor if shards and name.startswith(OPTIMIZER_TENSORS) else tensor.clone()

        state: dict[str, Any] = decode_state(encoded, read)
    return state


def restore_optimizer(trainer: Trainer, state: dict[str, Any], *, shards: bool = False) -> None:
    """Put back the states of optimizer, schedule and loss scale; rates, decay and betas are those of now.

    Raises `ModelError` where they are of others.
    """
    optimizer, schedule, scaler = _get_parts(trainer)
    kept_scaler = None if scaler is None else state.get("scaler")
    fits = is_like(state.get("schedule"), schedule.state_dict())
    if not fits or (scaler is not None and kept_scaler is not None and not is_like(kept_scaler, scaler.state_dict())):
        raise ModelError(_describe_other("schedule, or of the loss scale,", "one"))
    asked = [{name: group[name] for name in _OF_THE_SETTINGS if name in group} for group in optimizer.param_groups]
    inner, groups, shapes = describe_optimizer(optimizer, engine=shards and trainer.is_deepspeed_enabled)
    check_optimizer(inner, groups, shapes, state.get("optimizer"), _describe_other("optimizer", "optimizer"))
    try:
        if shards:
            put_optimizer(trainer, state["optimizer"])
        else:
            optimizer.load_state_dict(state["optimizer"])
    except (ValueError, KeyError) as problem:
        raise ModelError(_describe_other("optimizer", "optimizer")) from problem
    schedule.load_state_dict(state["schedule"])
    if isinstance(schedule, LambdaLR):  # others keep a rate of their own
        _apply_settings(optimizer, schedule, asked)
    if scaler is not None and kept_scaler is not None:
        scaler.load_state_dict(kept_scaler)


def _describe_other(part: str, other: str) -> Problem:
    what = f"the state of the {part} is of another {other}, or of other weights"
    return Problem(what, "set train.optim, model and lora as they were: see run.yaml", key=RESUME, code="HF901")


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
    """Put back what the callbacks had counted, kept or drawn. Raises `ModelError` where one of them cannot."""
    for callback in callbacks:
        state = saved.get(type(callback).__name__)
        if state is not None and isinstance(callback, Resumable):
            try:
                callback.restore_state(state)
            except (KeyError, TypeError, ValueError, AttributeError, IndexError) as problem:
                what = f"the checkpoint keeps a state of {type(callback).__name__} that it cannot go on from"
                raise ModelError(
                    Problem(what, "name another checkpoint, or leave the callback out", key=RESUME, code="HF916")
                ) from problem
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
