"""Log one plain line per logging step and per evaluation, and measure time, memory and energy."""

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
# Energy counters wrap around after a quarter of an hour at the earliest.
SECONDS_BETWEEN_READINGS = 60.0

# The metrics of a line, in order, with their formats.
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
    """Format the known metrics of a log entry, in their order."""
    # {"loss": 0.25, "learning_rate": 2e-5, "epoch": 1.0} -> ["loss 0.2500", "lr 2.00e-05"]
    return [text.format(logs[name]) for name, text in SHOWN.items() if name in logs]


class LogLines(TrainerCallback):
    """Log one plain line for each logging step and each evaluation, and measure time, memory and energy.

    `training_seconds` is the time of the optimizer steps, without evaluation, saving and sampling; `energy` is that of
    everything between the start and the end of training. `tokens_per_s` and `memory_mib` are added to each training
    entry of the log.
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
        """Tokens per second over all steps so far, over all processes."""
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
            logs |= measured  # for the trackers, which are called later
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
    """A callback that generates samples during training."""

    on_sample: Callable[[str, str], object]
    """Called with each prompt and its continuation."""


def use_log_lines(trainer: Trainer, sampler: Sampler | None = None) -> None:
    """Replace the Trainer's printed logs and its trackers by ours, and show progress in a terminal.

    Progress is shown by the main process only, with the samples of `sampler`, unless `train.disable_tqdm` is set.
    """
    trainer.remove_callback(PrinterCallback)
    trainer.remove_callback(ProgressCallback)
    use_trackers(trainer)
    in_terminal = sys.stderr.isatty() and os.environ.get("TERM") != "dumb"
    if in_terminal and trainer.is_world_process_zero() and not trainer.args.disable_tqdm:
        from rich.console import Console

        from hf_finetune.training.progress import ProgressDisplay

        display = ProgressDisplay(Console(stderr=True))
        trainer.add_callback(display)
        if sampler is not None:
            sampler.on_sample = display.show_sample


def peak_memory_mib() -> float:
    """Peak memory so far in MiB: allocated on the GPU if this process uses one, else resident in RAM."""
    if torch.cuda.is_initialized():  # type: ignore[no-untyped-call]
        return torch.cuda.max_memory_allocated() / MIB
    if sys.platform == "win32":
        return float(psutil.Process().memory_info().peak_wset) / MIB
    import resource  # not on Windows

    # ru_maxrss is in bytes on macOS and in KiB on Linux.
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return peak / MIB if sys.platform == "darwin" else peak / 1024
