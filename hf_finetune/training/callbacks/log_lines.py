"""Log one plain line per logging step and per evaluation, and measure time, memory and energy."""

from __future__ import annotations

import logging
import sys
import time
from typing import Any

import psutil
import torch
from transformers import (
    TrainerCallback,
    TrainerControl,
    TrainerState,
    TrainingArguments,
)

from hf_finetune.folders.record_kinds import SEEN
from hf_finetune.metric_info import format_metrics
from hf_finetune.training.callbacks.energy import EnergyMeter, find_energy_counters
from hf_finetune.training.seen import SeenCounter

logger = logging.getLogger(__name__)


MIB = 2**20
# Energy counters wrap around after a quarter of an hour at the earliest.
SECONDS_BETWEEN_READINGS = 60.0


class LogLines(TrainerCallback):
    """Log one plain line for each logging step and each evaluation, and measure time, memory and energy.

    `training_seconds` is the time of the optimizer steps, without evaluation, saving and sampling; `energy` is that of
    everything between the start and the end of training. Both go on where a run does. `tokens_per_s`, `memory_mib` and
    `tokens_seen` are added to each training entry of the log. Tokens are those of all processes, without padding.
    """

    def __init__(self, seen: SeenCounter) -> None:
        self.seen = seen
        self.training_seconds = 0.0
        self.energy = EnergyMeter([])
        self._logged = (0, 0.0)
        self._started = 0.0
        self._energy_read = 0.0

    @property
    def tokens_per_second(self) -> float:
        """Tokens per second over all steps so far, over all processes."""
        return self.seen.total.tokens / max(self.training_seconds, 1e-9)

    def save_state(self) -> dict[str, float]:
        """What a checkpoint keeps."""
        return {"training_seconds": self.training_seconds, "joules": self.energy.joules}

    def restore_state(self, state: dict[str, float]) -> None:
        """Go on from what `save_state` has returned."""
        self.training_seconds += state["training_seconds"]
        self.energy.joules += state["joules"]
        self._logged = (self.seen.total.tokens, self.training_seconds)

    def on_train_begin(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs: Any
    ) -> None:
        if state.is_world_process_zero:
            self.energy = EnergyMeter(find_energy_counters())
            self.energy.read()
        if state.global_step:
            kept: Any = state.stateful_callbacks  # a dictionary once training has begun
            self.seen.restore(kept[SEEN])
        self._started = self._energy_read = time.perf_counter()

    def on_step_end(self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs: Any) -> None:
        now = time.perf_counter()
        self.training_seconds += now - self._started
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
            self.seen.sum_up()
            measured = {"tokens_per_s": self._recent_tokens_per_second(), "memory_mib": get_peak_memory_mib()}
            measured |= {"tokens_seen": self.seen.total.tokens}
            logs |= measured  # for the trackers, which are called later
            state.log_history[-1] |= measured
        figures = format_metrics(logs)
        if figures and state.is_world_process_zero:
            width = len(str(state.max_steps))
            logger.info("step %*d/%d  %s", width, state.global_step, state.max_steps, "  ".join(figures))

    def on_evaluate(self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs: Any) -> None:
        self._started = time.perf_counter()

    def on_predict(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, metrics: Any, **kwargs: Any
    ) -> None:
        self._started = time.perf_counter()  # the base, scored before the first step

    def on_train_end(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs: Any
    ) -> None:
        self.seen.sum_up()
        self.energy.read()

    def on_save(self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs: Any) -> None:
        self._started = time.perf_counter()

    def _recent_tokens_per_second(self) -> float:
        tokens, seconds = self._logged
        self._logged = (self.seen.total.tokens, self.training_seconds)
        return (self.seen.total.tokens - tokens) / max(self.training_seconds - seconds, 1e-9)


def get_peak_memory_mib() -> float:
    """Peak memory so far in MiB: allocated on the GPU if this process uses one, else resident in RAM."""
    if torch.cuda.is_initialized():  # type: ignore[no-untyped-call]
        return torch.cuda.max_memory_allocated() / MIB
    if sys.platform == "win32":
        return float(psutil.Process().memory_info().peak_wset) / MIB
    import resource  # not on Windows

    # ru_maxrss is in bytes on macOS and in KiB on Linux.
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return peak / MIB if sys.platform == "darwin" else peak / 1024
