"""What a finished run did, as JSON-ready figures for its report."""

from __future__ import annotations

import os
import sys
import uuid
from pathlib import Path
from typing import Any

import torch
from transformers import Trainer, TrainingArguments
from transformers.trainer_utils import TrainOutput

from hf_finetune.shell import shell_line
from hf_finetune.training.callbacks import LogLines

# Where `hf-finetune train` says which accelerate configuration it has named; `accelerate launch` does not.
CONFIG_FILE = "HF_FINETUNE_CONFIG_FILE"


def new_run_id() -> str:
    """An identifier that tells two runs apart and nothing about the machine."""
    return uuid.uuid4().hex[:12]


def launch_line() -> str:
    """The command that made this run, as it was typed; the path of the script is shortened to its folder and name."""
    script = Path(sys.argv[0])
    where = ["--config_file", os.environ[CONFIG_FILE]] if CONFIG_FILE in os.environ else []
    return shell_line(["accelerate", "launch", *where, f"{script.parent.name}/{script.name}", *sys.argv[1:]])


def tokens_per_step(args: TrainingArguments, row_size: float) -> float:
    """Tokens of one optimizer step over all processes, for rows of `row_size` tokens on average."""
    rows: int = args.train_batch_size * args.world_size * args.gradient_accumulation_steps
    return rows * row_size


def train_facts(trainer: Trainer, result: TrainOutput, clock: LogLines) -> dict[str, Any]:
    """The `train` part of the report; `runtime_s` is the whole of training, `tokens_per_s` of the steps alone.

    `energy` is there where it was measured, and then of training and what was evaluated in it.
    """
    # Typed by transformers as what they may be before training.
    optimizer: Any = trainer.optimizer
    model: Any = trainer.model
    energy = clock.energy.as_dict()
    history = [entry for entry in trainer.state.log_history if "loss" in entry or "eval_loss" in entry]
    return {
        "steps": trainer.state.global_step,
        "max_steps": trainer.state.max_steps,
        # Time and speed are of these alone, in a run that was gone on with.
        "timed_steps": clock.timed_steps,
        "epochs": trainer.state.epoch,
        "loss": result.training_loss,
        "runtime_s": result.metrics["train_runtime"],
        "tokens_per_s": clock.tokens_per_second,
        "optimizer": type(optimizer.optimizer).__name__,
        "attention": model.config._attn_implementation,
        "best_checkpoint": _name(trainer.state.best_model_checkpoint),
        "best_metric": trainer.state.best_metric,
        **({} if energy is None else {"energy": energy}),
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


def _name(path: str | None) -> str | None:
    return None if path is None else Path(path).name
