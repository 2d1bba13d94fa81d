"""Logs as a Trainer writes them, with curves of our choice."""

from __future__ import annotations

import json
import math
import random
from collections.abc import Callable
from pathlib import Path
from typing import Any

from hf_finetune.reporting.run_record import RunRecord

Law = Callable[[float], float]


def cosine(progress: float) -> float:
    return 3e-4 * (1 + math.cos(math.pi * progress)) / 2


def constant(progress: float) -> float:
    return 3e-4


# Loss by the share of the run that has passed: of training, and of validation.
LAWS: dict[str, tuple[Law, Law, Law]] = {
    "healthy": (lambda x: 2 + 2 * math.exp(-5 * x), lambda x: 2.1 + 2 * math.exp(-5 * x), cosine),
    "overfitting": (lambda x: 0.2 + 3 * math.exp(-4 * x), lambda x: 2 + 2 * math.exp(-9 * x) + x, cosine),
    "underfitting": (lambda x: 2 + 2 * math.exp(-1.5 * x), lambda x: 2.1 + 2 * math.exp(-1.5 * x), constant),
    "plateau": (lambda x: 3 + math.exp(-60 * x), lambda x: 3.05 + math.exp(-60 * x), constant),
    "learning_rate_too_low": (lambda x: 4 - 0.05 * x, lambda x: 4.02 - 0.05 * x, constant),
    "divergence": (lambda x: 2 + 2 * math.exp(-9 * x) + 30 * max(0.0, x - 0.6), lambda x: 3 + 30 * x, constant),
    "learning_rate_too_high": (
        lambda x: 2 + 2 * math.exp(-4 * x) + 1.5 * math.exp(-((x - 0.3) ** 2) / 0.005),
        lambda x: 2.1 + 2 * math.exp(-4 * x),
        cosine,
    ),
}


def log_of(kind: str, *, steps: int = 400, every: int = 5, noise: float = 0.01, seed: int = 0) -> list[dict[str, Any]]:
    """The history of a run of a kind: each training loss is a mean over the `every` steps before."""
    train, validation, rate = LAWS[kind]
    draw = random.Random(seed)
    history: list[dict[str, Any]] = []
    for step in range(every, steps + 1, every):
        losses = [train(each / steps) for each in range(step - every, step)]
        loss = sum(losses) / every + draw.gauss(0, noise / math.sqrt(every))
        history.append({"step": step, "loss": loss, "learning_rate": rate(step / steps), "grad_norm": 0.5})
        if step % (4 * every) == 0:
            history.append({"step": step, "eval_loss": validation(step / steps)})
    return history


def record(history: list[dict[str, Any]], **fields: Any) -> RunRecord:
    step = max((entry["step"] for entry in history), default=0)
    known: dict[str, Any] = {
        "folder": Path("run"),
        "name": "run",
        "status": "foreign",
        "report": {},
        "manifest": {},
        "settings": {},
        "model": {},
        "history": history,
        "max_steps": None,
        "step": step,
        "best_step": None,
        "best_checkpoint": None,
    }
    return RunRecord(**{**known, **fields})


def write_state(folder: Path, history: Any, step: int = 40, **fields: Any) -> Path:
    """A trainer_state.json, as of transformers."""
    folder.mkdir(parents=True, exist_ok=True)
    state = {"global_step": step, "max_steps": 100, "log_history": history, "best_model_checkpoint": None, **fields}
    (folder / "trainer_state.json").write_text(json.dumps(state))
    return folder
