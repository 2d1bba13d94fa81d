"""Statistics of a finished run, ready for report.json."""

from __future__ import annotations

import math
import os
import sys
import uuid
from dataclasses import asdict
from pathlib import Path
from typing import Any

from transformers.trainer_utils import TrainOutput

from hf_finetune.data.streaming.feed import PartedRows
from hf_finetune.environment.launched import read_launch_options
from hf_finetune.shell import shell_line
from hf_finetune.training.trainers.base import TrainerMixin

# Set by `hf-finetune train` to the accelerate configuration it uses.
CONFIG_FILE = "HF_FINETUNE_CONFIG_FILE"


def make_run_id() -> str:
    """Draw a random run id: 12 hexadecimal digits that say nothing about the machine."""
    return uuid.uuid4().hex[:12]


def format_launch_line() -> str:
    """Format the command of this run as it was typed; a script elsewhere is shortened to its folder and name."""
    # "accelerate launch --config_file accelerate_configs/cpu.yaml recipes/sft.py recipes/configs/sft.yaml"
    return shell_line(read_launch_words())


def read_launch_words() -> list[str]:
    """The words of that command."""
    script = Path(sys.argv[0])
    if script.is_absolute() or ".." in script.parts:
        script = Path(*script.parts[-2:])
    where = ["--config_file", os.environ[CONFIG_FILE]] if CONFIG_FILE in os.environ else read_launch_options()
    return ["accelerate", "launch", *where, str(script), *sys.argv[1:]]


def collect_train_stats(trainer: TrainerMixin, result: TrainOutput) -> dict[str, Any]:
    """Collect the `train` part of the report.

    `runtime_s` is all of training, evaluation included, and so is `energy`, which is there only where it was measured;
    `tokens_per_s` is the speed of the optimizer steps alone; `skipped_steps` had a loss or gradient that is not finite.
    `seen` counts rows and tokens of all micro-batches that were computed, and `epochs` follows from it. All of it is of
    the whole run, however often it was resumed.
    """
    # transformers types both as optional: they are before training.
    optimizer: Any = trainer.optimizer
    model: Any = trainer.model
    clock = trainer.log_lines
    energy = clock.energy.as_dict()
    seen, rows = trainer.seen.total, trainer.train_dataset
    best = trainer.state.best_model_checkpoint
    history = [entry for entry in trainer.state.log_history if "loss" in entry or "eval_loss" in entry]
    return {
        "steps": trainer.state.global_step,
        "max_steps": trainer.state.max_steps,
        # Of a stream the passes that were read, as one epoch of its trainer is one part.
        "epochs": rows.feed.passes if isinstance(rows, PartedRows) else seen.rows / len(rows),  # type: ignore[arg-type]
        "seen": asdict(seen),
        "loss": result.training_loss,
        "runtime_s": result.metrics["train_runtime"],
        "tokens_per_s": clock.tokens_per_second,
        "optimizer": type(optimizer.optimizer).__name__,
        "attention": model.config._attn_implementation,
        "skipped_steps": trainer.guard.skipped_steps,
        "best_checkpoint": None if best is None else Path(best).name,  # without the path of this machine
        "best_metric": _finite(trainer.state.best_metric),
        **({} if energy is None else {"energy": energy}),
        "history": history,
    }


def _finite(metric: float | None) -> float | None:
    """Infinite is what the Trainer begins to compare with: no evaluation gave a number then."""
    return metric if metric is not None and math.isfinite(metric) else None
