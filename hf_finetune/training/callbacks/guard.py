"""Keep values that are not finite from the weights, and stop a run that trains nothing."""

from __future__ import annotations

import logging
import math
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import replace
from pathlib import Path
from typing import Any, Literal

import torch
from accelerate.utils import gather_object
from torch import Tensor
from torch.distributed.tensor import DTensor
from transformers import TrainerCallback, TrainerControl, TrainerState, TrainingArguments

from hf_finetune.config.sections import Run
from hf_finetune.data.splitting.splits import Splits
from hf_finetune.errors import NonFiniteError, Problem
from hf_finetune.folders import list_checkpoints
from hf_finetune.training.callbacks.first_steps import FirstSteps, find_non_finite, get_trained, show_names
from hf_finetune.training.callbacks.loss_watch import LossWatch
from hf_finetune.training.callbacks.nonfinite_record import BY_ROWS, Cause, Locate, NonFiniteStep, write_record
from hf_finetune.training.callbacks.offenders import MicroBatch, StoppedTrainer, find_rows

logger = logging.getLogger(__name__)

MAX_SKIPS = 10
"""The default of `train.max_nonfinite_skips`."""


class TrainingGuard(TrainerCallback):
    """Looks at each step before the optimizer takes it; a Trainer of ours has one, whether it was given one or not.

    Raises `NonFiniteError` where the loss, the gradient, the learning rate or a weight is NaN or infinite, on all ranks
    alike, once nonfinite.json names the rows; with `on_nonfinite` "skip" such a step is left out where its rows are the
    cause, `max_skips` times at most. `FirstSteps` and `LossWatch` say what else stops a run. Under fp16 an overflow of
    the gradient is the search for a loss scale, and is not counted.
    """

    # DeepSpeed takes its step within `backward`, before this is asked, and itself leaves out one (0.19) whose gradients
    # are not finite, as those of a loss that is not finite never are.

    def __init__(
        self,
        on_nonfinite: Literal["stop", "skip"] = "stop",
        max_skips: int = MAX_SKIPS,
        locate: Locate | None = None,
    ) -> None:
        """`locate` gives the file and line of a row of the training split."""
        self.on_nonfinite, self.max_skips, self.locate = on_nonfinite, max_skips, locate
        self.batches: list[MicroBatch] = []
        """Those of the step that is being computed."""
        self.watch = LossWatch()
        self._records: list[dict[str, Any]] = []
        self._first: FirstSteps | None = None

    @property
    def skipped_steps(self) -> int:
        """Steps that were left out so far, resumed runs included."""
        return len(self._records)

    def save_state(self) -> dict[str, Any]:
        """As `checkpoints.state.Resumable` has it."""
        return {"skipped": self._records, "watch": self.watch.save()}

    def restore_state(self, state: Any) -> None:
        """Go on from what `save_state` has returned."""
        self._records, self.watch = list(state["skipped"]), LossWatch(**state["watch"])

    def on_train_begin(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs: Any
    ) -> None:
        self.batches, self.watch, self._records = [], LossWatch(), []
        self._first = FirstSteps(kwargs["model"])
        if state.is_world_process_zero and not state.global_step:
            write_record(Path(str(args.output_dir)), [])  # of an earlier run

    def on_step_end(self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs: Any) -> None:
        if self._first is not None:
            self._first.check_moved(kwargs["model"])

    def on_train_end(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs: Any
    ) -> None:
        if self._first is not None:
            self._first.check_moved(kwargs["model"], at_end=True)

    def allows(self, trainer: StoppedTrainer, norm: Tensor | float) -> bool:
        """Whether the optimizer may take the step, whose gradient has this norm; every rank calls it before clipping.

        False where it is left out: the gradients are dropped.
        """
        batches, self.batches = self.batches, []
        loss, size = _read_figures(trainer, batches, norm)
        rates = [float(group["lr"]) for group in trainer.optimizer.param_groups]
        scales = trainer.accelerator.scaler is not None or (_has_engine(trainer) and trainer.args.fp16)
        overflow = scales and not math.isfinite(size)
        if math.isfinite(loss) and (math.isfinite(size) or overflow) and all(map(math.isfinite, rates)):
            self._look(trainer, loss, size, max(rates), overflow=overflow)
            return True
        found = self._describe(trainer, batches, loss, size, rates)
        if found.action == "stopped":
            self._record(trainer, found)
            raise NonFiniteError([self._summarize(trainer, found), *found.name_rows(self.locate)], total=1)
        self._records.append(self._record(trainer, found))
        trainer.model.zero_grad()
        places = "".join(f"\n{replace(row, code='')}" for row in found.name_rows(self.locate))
        what = "step %d is left out: %s (%d of at most %d)%s"
        logger.warning(
            what, found.step, found.describe(), self.skipped_steps, self.max_skips, places, extra={"code": "HF922"}
        )
        return False

    def check_weights(self, trainer: StoppedTrainer) -> None:
        """Raise `NonFiniteError` before weights are saved that are not finite; every rank calls it."""
        broken = find_non_finite(get_trained(trainer.model).items())
        everywhere = sorted({name for names in gather_object([broken]) for name in names})
        if everywhere:
            found = NonFiniteStep(
                trainer.state.global_step, "stopped", "weights", math.nan, math.nan, tuple(everywhere), ()
            )
            self._record(trainer, found)
            what = f"after step {found.step} weights are not finite ({show_names(everywhere)}): they are not saved"
            raise NonFiniteError(Problem(what, f"lower the learning rate; {say_kept(trainer)}", code="HF923"))

    def _look(self, trainer: StoppedTrainer, loss: float, norm: float, rate: float, *, overflow: bool) -> None:
        if self._first is not None and not _has_engine(trainer):
            self._first.check_gradients(trainer.model, counts=rate > 0 and not overflow)
        warmup = trainer.args.get_warmup_steps(trainer.state.max_steps)
        in_warmup = trainer.state.global_step <= warmup
        self.watch.look(loss, norm, None if in_warmup else rate, overflow=overflow, kept=lambda: say_kept(trainer))

    def _describe(
        self, trainer: StoppedTrainer, batches: Sequence[MicroBatch], loss: float, norm: float, rates: Sequence[float]
    ) -> NonFiniteStep:
        """Find what is not finite, and in which rows of all ranks."""
        model = trainer.model
        gradients = find_non_finite((name, weight.grad) for name, weight in get_trained(model).items())
        weights = find_non_finite(model.named_parameters())
        cause: Cause = "gradient" if math.isfinite(loss) else "loss"
        if not all(map(math.isfinite, rates)):
            cause = "learning_rate"
        elif any(gather_object([bool(weights)])):
            cause = "weights"
        if cause in BY_ROWS:
            rows = find_rows(trainer, batches, by_loss=cause == "loss")
        else:
            rows = [source for batch in batches for row in batch.sources for source in row]
        everywhere = sorted({row for some in gather_object([rows]) for row in some})
        left = self.on_nonfinite == "skip" and cause in BY_ROWS and self.skipped_steps < self.max_skips
        return NonFiniteStep(
            step=trainer.state.global_step + 1,
            action="skipped" if left else "stopped",
            cause=cause,
            loss=loss,
            gradient_norm=norm,
            weights=tuple(weights if cause == "weights" else gradients),
            rows=tuple(everywhere),
        )

    def _record(self, trainer: StoppedTrainer, found: NonFiniteStep) -> dict[str, Any]:
        entry = found.as_dict(self.locate)
        if trainer.args.should_save:
            write_record(Path(str(trainer.args.output_dir)), [*self._records, entry])
        return entry

    def _summarize(self, trainer: StoppedTrainer, found: NonFiniteStep) -> Problem:
        what = f"step {found.step} was stopped before the optimizer took it: {found.describe()}"
        advice = "look at the rows, lower train.learning_rate, or set train.on_nonfinite=skip"
        if self.on_nonfinite == "skip" and found.cause in BY_ROWS:
            advice = f"{self.skipped_steps} steps were left out already, as train.max_nonfinite_skips allows"
        elif found.cause not in BY_ROWS:
            advice = "no row is the cause: lower train.learning_rate"
        return Problem(what, f"{advice}; {say_kept(trainer)}", code="HF921")


def make_guard(run: Run, splits: Splits) -> TrainingGuard:
    """The guard of a run: what `train.on_nonfinite` asks for, and where the rows of `splits` stand."""
    skips = run.train.get("max_nonfinite_skips", MAX_SKIPS)
    return TrainingGuard(run.train.get("on_nonfinite", "stop"), skips, lambda row: splits.locate("train", row))


def say_kept(trainer: StoppedTrainer) -> str:
    """What is kept of a run that is stopped, for the end of a message; waits for a checkpoint that is being written."""
    with suppress(Exception):  # which is said where it is written
        trainer.checkpoints.writer.wait()
    if list_checkpoints(Path(str(trainer.args.output_dir))):
        return "the last checkpoint is kept"
    return "nothing was saved before"


def _has_engine(trainer: StoppedTrainer) -> bool:
    """Whether DeepSpeed trains: it keeps the gradients to itself, and scales the loss itself."""
    return trainer.accelerator.state.deepspeed_plugin is not None


def _read_figures(trainer: StoppedTrainer, batches: Sequence[MicroBatch], norm: Tensor | float) -> tuple[float, float]:
    """The loss of a step over all ranks and its gradient's norm: the device is waited for once."""
    whole = norm.full_tensor() if isinstance(norm, DTensor) else torch.as_tensor(norm)
    losses = torch.stack([batch.loss.float() for batch in batches])
    figures = torch.stack([losses.sum(), whole.to(losses)])
    if trainer.accelerator.num_processes > 1:
        # NaN and infinity of one rank are NaN or infinite in the mean: all ranks decide alike.
        figures = trainer.accelerator.reduce(figures, "mean")
    loss, size = figures.tolist()
    return loss, size
