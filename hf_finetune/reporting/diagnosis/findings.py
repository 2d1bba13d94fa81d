"""What a diagnosis is made of: findings, and how figures and settings are written in them."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Literal

from hf_finetune.reporting.run_record import RunRecord, curve

Level = Literal["problem", "warning", "note", "good"]
LEVELS: tuple[Level, ...] = ("problem", "warning", "note", "good")
"""The worst first. A problem spoilt the model; a warning is something to change; a note is good to know."""

# What TrainingArguments take where nothing else is asked for.
TRAINER_DEFAULTS: dict[str, Any] = {"max_grad_norm": 1.0, "load_best_model_at_end": False, "fp16": False}


@dataclass(frozen=True)
class Finding:
    """One thing that a run's files tell."""

    kind: str
    level: Level
    title: str
    evidence: str
    """Figures and steps."""
    cause: str
    remedy: str
    """The next setting to try."""
    step: int | None = None
    """Where it begins."""


def number(value: float) -> str:
    """Four digits: what of a loss can be told apart."""
    return f"{value:,.4g}" if abs(value) < 1e5 else f"{value:.3g}"


def setting(run: RunRecord, key: str, value: object) -> str:
    """`train.key=value` as a run of ours is given it; the name alone for another Trainer's."""
    return f"{key if run.status == 'foreign' else f'train.{key}'}={_shown(value)}"


def _shown(value: object) -> str:
    if isinstance(value, bool):
        return str(value).lower()
    if isinstance(value, float):
        return f"{value:.2g}" if 1e-3 <= abs(value) < 100 else f"{value:.1e}".replace("e-0", "e-").replace("e+0", "e")
    return str(value)


def train_setting(run: RunRecord, key: str) -> Any:
    """What the run was told, or transformers' default; a foreign log does not say."""
    train = run.settings.get("train")
    value = train.get(key) if isinstance(train, dict) else None
    return TRAINER_DEFAULTS.get(key) if value is None else value


def peak_rate(run: RunRecord) -> float | None:
    rates = [value for _, value in curve(run, "learning_rate")]
    return max(rates, default=None)


def other_rate(run: RunRecord, factor: float) -> str:
    """The setting of a learning rate that is `factor` of the highest in the log."""
    peak = peak_rate(run)
    if peak:
        return setting(run, "learning_rate", peak * factor)
    return f"a {'lower' if factor < 1 else 'higher'} learning_rate"
