"""Small runs of the Trainer as programs: watched in a terminal, or followed by trackers.

python tests/training/callbacks/watched_runs.py watch FOLDER | track FOLDER TRACKER,...
"""

from __future__ import annotations

import json
import socket
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from datasets import Dataset
from models.scratch_models import tiny_model
from transformers import TrainerCallback, TrainingArguments

from hf_finetune.environment.logs import set_up_logging
from hf_finetune.errors import NonFiniteError, Problem, user_errors
from hf_finetune.training.callbacks.trackers import redirect_trackers
from hf_finetune.training.facts import collect_train_stats
from hf_finetune.training.trainers.base import Trainer

SAMPLE = ("What is this?", "A \x1b[31mred\x1b[0m \u202eword")


class SampleAtEvaluation(TrainerCallback):
    """What `SamplePrompts` is to the display."""

    def __init__(self) -> None:
        self.on_sample: Callable[[str, str], object] = lambda prompt, continuation: None
        self.ended = False

    def on_evaluate(self, *args: Any, **kwargs: Any) -> None:
        if not self.ended:
            self.on_sample(*SAMPLE)
        print("[/INST] :smile:", end="", flush=True)

    def on_train_end(self, *args: Any, **kwargs: Any) -> None:
        self.ended = True


class Fail(TrainerCallback):
    def on_step_end(self, *args: Any, **kwargs: Any) -> None:
        raise NonFiniteError(Problem("the loss is no number"))


def rows(count: int = 8) -> Dataset:
    ids = torch.randint(3, 61, (count, 8), generator=torch.Generator().manual_seed(0)).tolist()
    return Dataset.from_list([{"input_ids": row, "labels": row} for row in ids])


def trainer_in(folder: Path, *callbacks: TrainerCallback, **settings: Any) -> Trainer:
    """Six steps, a line every two, an evaluation every three."""
    args = {"max_steps": 6, "logging_steps": 2, "eval_strategy": "steps", "eval_steps": 3, "save_strategy": "no"}
    args |= {"use_cpu": True, "report_to": "none"}
    args |= {"per_device_train_batch_size": 4, "per_device_eval_batch_size": 4} | settings
    return Trainer(
        model=tiny_model(),
        args=TrainingArguments(output_dir=str(folder), **args),
        train_dataset=rows(),
        eval_dataset=rows(),
        callbacks=list(callbacks),
    )


def watch(folder: Path) -> None:
    """The last of its runs fails."""
    trainer = trainer_in(folder, SampleAtEvaluation())
    trainer.train()
    print("between")
    trainer.evaluate()
    print("quiet")
    trainer_in(folder, disable_tqdm=True).train()
    print("failing")
    trainer_in(folder, Fail()).train()


def track(folder: Path, trackers: list[str]) -> None:
    """Writes what the Trainer logged beside what the trackers wrote; nothing may reach for a network."""

    def refuse(*args: Any, **kwargs: Any) -> None:
        raise AssertionError("a network was asked for")

    redirect_trackers(str(folder), trackers)
    for name in ("connect", "connect_ex"):
        setattr(socket.socket, name, refuse)
    socket.getaddrinfo = refuse
    trainer = trainer_in(folder, report_to=trackers)
    result = trainer.train()
    trainer.evaluate(metric_key_prefix="test")
    trainer.predict(rows())
    (folder / "history.json").write_text(json.dumps(collect_train_stats(trainer, result)["history"]))


if __name__ == "__main__":
    set_up_logging()
    with user_errors():
        if sys.argv[1] == "track":
            track(Path(sys.argv[2]), sys.argv[3].split(","))
        else:
            watch(Path(sys.argv[2]))
