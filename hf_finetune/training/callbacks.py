"""What a run says while it trains: one plain line per logging step and per evaluation."""

from __future__ import annotations

import logging
import sys
import time
from typing import Any

from transformers import (
    PrinterCallback,
    ProgressCallback,
    Trainer,
    TrainerCallback,
    TrainerControl,
    TrainerState,
    TrainingArguments,
)

logger = logging.getLogger(__name__)

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
}


class LogLines(TrainerCallback):
    """Write one plain line for each logging step and each evaluation, and time the steps alone.

    `training_seconds` counts from step to step; evaluating, saving and sampling in between are left out.
    """

    def __init__(self, tokens_per_step: float) -> None:
        self.tokens_per_step = tokens_per_step
        self.training_seconds = 0.0
        self.timed_steps = 0
        self._logged = (0, 0.0)
        self._started = 0.0

    @property
    def tokens_per_second(self) -> float:
        """Of the whole run."""
        return self.timed_steps * self.tokens_per_step / max(self.training_seconds, 1e-9)

    def on_train_begin(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs: Any
    ) -> None:
        self._started = time.perf_counter()

    def on_step_end(self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs: Any) -> None:
        now = time.perf_counter()
        self.training_seconds += now - self._started
        self.timed_steps += 1
        self._started = now

    def on_log(
        self,
        args: TrainingArguments,
        state: TrainerState,
        control: TrainerControl,
        logs: dict[str, float] | None = None,
        **kwargs: Any,
    ) -> None:
        figures = [text.format(logs[name]) for name, text in SHOWN.items() if logs and name in logs]
        if logs and "loss" in logs:
            state.log_history[-1]["tokens_per_s"] = rate = self._recent_tokens_per_second()
            figures.append(f"{rate:,.0f} tokens/s")
        if figures and state.is_world_process_zero:
            width = len(str(state.max_steps))
            logger.info("step %*d/%d  %s", width, state.global_step, state.max_steps, "  ".join(figures))

    def on_evaluate(self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs: Any) -> None:
        self._started = time.perf_counter()

    def on_save(self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs: Any) -> None:
        self._started = time.perf_counter()

    def _recent_tokens_per_second(self) -> float:
        steps, seconds = self._logged
        self._logged = (self.timed_steps, self.training_seconds)
        return (self.timed_steps - steps) * self.tokens_per_step / max(self.training_seconds - seconds, 1e-9)


def use_log_lines(trainer: Trainer) -> None:
    """Replace the Trainer's printed dictionaries by `LogLines`; the progress bar stays where a person is watching."""
    trainer.remove_callback(PrinterCallback)
    trainer.remove_callback(ProgressCallback)
    if sys.stderr.isatty() and not trainer.args.disable_tqdm:
        trainer.add_callback(QuietProgress)


class QuietProgress(ProgressCallback):
    """The Trainer's progress bar without its printed dictionaries."""

    def on_log(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, logs: Any = None, **kwargs: Any
    ) -> None: ...
