"""What a finished run did, as JSON-ready figures for its report."""

from __future__ import annotations

import shlex
import sys
import uuid
from pathlib import Path
from typing import Any

import torch
from transformers import Trainer, TrainingArguments
from transformers.trainer_utils import TrainOutput

from hf_finetune.training.callbacks import LogLines


def new_run_id() -> str:
    """An identifier that tells two runs apart and nothing about the machine."""
    return uuid.uuid4().hex[:12]


def launch_line() -> str:
    """The command that made this run, as it was typed; the path of the script is shortened to its folder and name."""
    script = Path(sys.argv[0])
    return shlex.join(["accelerate", "launch", f"{script.parent.name}/{script.name}", *sys.argv[1:]])


def tokens_per_step(args: TrainingArguments, row_size: float) -> float:
    """Tokens of one optimizer step over all processes, for rows of `row_size` tokens on average."""
    rows: int = args.train_batch_size * args.world_size * args.gradient_accumulation_steps
    return rows * row_size


def train_facts(trainer: Trainer, result: TrainOutput, clock: LogLines) -> dict[str, Any]:
    """The `train` part of the report; `runtime_s` is the whole of training, `tokens_per_s` of the steps alone."""
    # Typed by transformers as what they may be before training.
    optimizer: Any = trainer.optimizer
    model: Any = trainer.model
    history = [entry for entry in trainer.state.log_history if "loss" in entry or "eval_loss" in entry]
    return {
        "steps": trainer.state.global_step,
        "epochs": trainer.state.epoch,
        "loss": result.training_loss,
        "runtime_s": result.metrics["train_runtime"],
        "tokens_per_s": clock.tokens_per_second,
        "optimizer": type(optimizer.optimizer).__name__,
        "attention": model.config._attn_implementation,
        "best_checkpoint": _name(trainer.state.best_model_checkpoint),
        "best_metric": trainer.state.best_metric,
        "history": history,
    }


def distributed_facts(trainer: Trainer) -> dict[str, Any]:
    """What really ran, from the accelerator's own state."""
    state = trainer.accelerator.state
    return {
        "strategy": state.distributed_type.value,
        "processes": state.num_processes,
        "backend": state.backend,
        "device": state.device.type,
        "threads_per_process": torch.get_num_threads(),
        "mixed_precision": state.mixed_precision,
    }


def scores(metrics: dict[str, float], prefix: str) -> dict[str, float]:
    """The metrics of `Trainer.evaluate` under their own names."""
    timing = ("_runtime", "_per_second")
    return {
        name.removeprefix(f"{prefix}_"): value
        for name, value in metrics.items()
        if name.startswith(f"{prefix}_") and not name.endswith(timing)
    }


def _name(path: str | None) -> str | None:
    return None if path is None else Path(path).name
