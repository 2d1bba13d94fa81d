"""What a run says while it trains: one plain line per logging step and per evaluation."""

from __future__ import annotations

import logging
import os
import sys
import time
from collections.abc import Callable, Mapping
from typing import Any, Protocol

import psutil
import torch
from transformers import (
    PrinterCallback,
    ProgressCallback,
    Trainer,
    TrainerCallback,
    TrainerControl,
    TrainerState,
    TrainingArguments,
)

from hf_finetune.training.energy import EnergyMeter, machine_counters
from hf_finetune.training.trackers import use_trackers

logger = logging.getLogger(__name__)

MIB = 2**20
# Counters of energy begin anew every quarter of an hour at the soonest.
SECONDS_BETWEEN_READINGS = 60.0

# The figures of a line, in order, and how each is written.
SHOWN = {
    "loss": "loss {:.4f}",
    "eval_loss": "validation loss {:.4f}",
    "eval_perplexity": "perplexity {:.2f}",
    "eval_token_accuracy": "token accuracy {:.1%}",
    "eval_bits_per_byte": "bits per byte {:.3f}",
    "eval_accuracy": "accuracy {:.1%}",
    "eval_f1_macro": "f1 macro {:.3f}",
    "eval_matthews_correlation": "matthews correlation {:.3f}",
    "eval_mae": "mean absolute error {:.4g}",
    "grad_norm": "grad norm {:.2f}",
    "learning_rate": "lr {:.2e}",
    "tokens_per_s": "{:,.0f} tokens/s",
}


def figures_in_words(logs: Mapping[str, float]) -> list[str]:
    """The figures of a log entry that are said, in their order."""
    return [text.format(logs[name]) for name, text in SHOWN.items() if name in logs]


class LogLines(TrainerCallback):
    """Write one plain line for each logging step and each evaluation, and measure time, memory and energy.

    `training_seconds` counts from step to step; evaluating, saving and sampling in between are left out. `energy` is of
    all from the first step to the end of training. Each training entry of the log gets `tokens_per_s` and `memory_mib`.
    """

    def __init__(self, tokens_per_step: float) -> None:
        self.tokens_per_step = tokens_per_step
        self.training_seconds = 0.0
        self.timed_steps = 0
        self.energy = EnergyMeter([])
        self._logged = (0, 0.0)
        self._started = 0.0
        self._energy_read = 0.0

    @property
    def tokens_per_second(self) -> float:
        """Of the whole run."""
        return self.timed_steps * self.tokens_per_step / max(self.training_seconds, 1e-9)

    def on_train_begin(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs: Any
    ) -> None:
        if state.is_world_process_zero:
            self.energy = EnergyMeter(machine_counters())
            self.energy.read()
        self._started = self._energy_read = time.perf_counter()

    def on_step_end(self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs: Any) -> None:
        now = time.perf_counter()
        self.training_seconds += now - self._started
        self.timed_steps += 1
        if now - self._energy_read > SECONDS_BETWEEN_READINGS:
            self.energy.read()
            self._energy_read = now
        self._started = now

    def on_log(
        self,
        args: TrainingArguments,
        state: TrainerState,
        control: TrainerControl,
        logs: dict[str, float] | None = None,
        **kwargs: Any,
    ) -> None:
        logs = {} if logs is None else logs
        if "loss" in logs:
            measured = {"tokens_per_s": self._recent_tokens_per_second(), "memory_mib": peak_memory_mib()}
            logs |= measured  # for the trackers, which come after this
            state.log_history[-1] |= measured
        figures = figures_in_words(logs)
        if figures and state.is_world_process_zero:
            width = len(str(state.max_steps))
            logger.info("step %*d/%d  %s", width, state.global_step, state.max_steps, "  ".join(figures))

    def on_evaluate(self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs: Any) -> None:
        self._started = time.perf_counter()

    def on_train_end(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs: Any
    ) -> None:
        self.energy.read()

    def on_save(self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs: Any) -> None:
        self._started = time.perf_counter()

    def _recent_tokens_per_second(self) -> float:
        steps, seconds = self._logged
        self._logged = (self.timed_steps, self.training_seconds)
        return (self.timed_steps - steps) * self.tokens_per_step / max(self.training_seconds - seconds, 1e-9)


class Sampler(Protocol):
    """What takes samples while a run trains, and says so."""

    on_sample: Callable[[str, str], object]
    """Called with prompt and continuation."""


def use_log_lines(trainer: Trainer, sampler: Sampler | None = None) -> None:
    """Replace what the Trainer prints by `LogLines`, and its trackers by ours; where a person watches, show progress.

    The display is the main process's, in a terminal, unless `train.disable_tqdm`; the samples of `sampler` are in it.
    """
    trainer.remove_callback(PrinterCallback)
    trainer.remove_callback(ProgressCallback)
    use_trackers(trainer)
    watched = sys.stderr.isatty() and os.environ.get("TERM") != "dumb"
    if watched and trainer.is_world_process_zero() and not trainer.args.disable_tqdm:
        from hf_finetune.training.progress import ProgressDisplay

        display = ProgressDisplay()
        trainer.add_callback(display)
        if sampler is not None:
            sampler.on_sample = display.show_sample


def peak_memory_mib() -> float:
    """The most memory so far: of this process's GPU where it has used one, else of the process."""
    if torch.cuda.is_initialized():  # type: ignore[no-untyped-call]
        return torch.cuda.max_memory_allocated() / MIB
    if sys.platform == "win32":
        return float(psutil.Process().memory_info().peak_wset) / MIB
    import resource  # not on Windows

    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return peak / MIB if sys.platform == "darwin" else peak / 1024
