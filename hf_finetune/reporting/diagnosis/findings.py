"""The findings of a diagnosis, and how numbers and settings are formatted in them."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Literal

from hf_finetune.reporting.run_record import RunRecord, get_curve

Level = Literal["problem", "warning", "note", "good"]
LEVELS: tuple[Level, ...] = ("problem", "warning", "note", "good")
"""Worst first. A problem ruined the model; a warning is something to change; a note is good to know."""

# Defaults of TrainingArguments (transformers 5.23), for the runs of other Trainers, whose logs hold no settings.
TRAINER_DEFAULTS: dict[str, Any] = {"max_grad_norm": 1.0, "load_best_model_at_end": False, "fp16": False}


@dataclass(frozen=True)
class Finding:
    """One conclusion from a run's files."""

    kind: str
    level: Level
    title: str
    evidence: str
    """Measured values and steps."""
    cause: str
    remedy: str
    """The next setting to try."""
    step: int | None = None
    """Step at which it begins."""


def fmt(value: float) -> str:
    """Format with four digits, as many as a loss is worth: `2.346`."""
    return f"{value:,.4g}" if abs(value) < 1e5 else f"{value:.3g}"


def format_setting(run: RunRecord, key: str, value: object) -> str:
    """`train.key=value` for a run of ours; `key=value` for another Trainer's, which has no section `train`."""
    return f"{key if run.status == 'foreign' else f'train.{key}'}={_format_setting_value(value)}"


def _format_setting_value(value: object) -> str:
    if isinstance(value, bool):
        return str(value).lower()
    if isinstance(value, float):  # 0.02 -> "0.02", 3e-05 -> "3.0e-5": both can be typed into a run file
        return f"{value:.2g}" if 1e-3 <= abs(value) < 100 else f"{value:.1e}".replace("e-0", "e-").replace("e+0", "e")
    return str(value)


def get_train_setting(run: RunRecord, key: str) -> Any:
    """A setting of the section `train`; transformers' default where the run has no such setting."""
    train = run.settings.get("train")
    value = train.get(key) if isinstance(train, dict) else None
    return TRAINER_DEFAULTS.get(key) if value is None else value


def find_peak_rate(run: RunRecord) -> float | None:
    """The highest learning rate in the log; None where none was logged."""
    rates = [value for _, value in get_curve(run, "learning_rate")]
    return max(rates, default=None)


def format_rate(run: RunRecord, factor: float) -> str:
    """The setting for `factor` times the peak learning rate; words where no rate was logged."""
    peak = find_peak_rate(run)
    if peak:
        return format_setting(run, "learning_rate", peak * factor)
    return f"a {'lower' if factor < 1 else 'higher'} learning_rate"
