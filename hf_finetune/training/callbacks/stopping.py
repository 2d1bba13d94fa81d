"""A signal during training: all ranks stop at the same step, which is saved."""

from __future__ import annotations

import signal
from collections.abc import Callable
from datetime import timedelta
from typing import Any

import torch
import torch.distributed as dist
from accelerate import Accelerator
from torch import Tensor
from transformers import TrainerCallback, TrainerControl, TrainerState, TrainingArguments

from hf_finetune.interruption import get_held_signal
from hf_finetune.ranks import keep_connections_watched


class EvaluationStopped(Exception):
    """An evaluation during training was left for a signal; the resumed run makes it."""


class AgreedSignal:
    """The signal that any rank has got, once all ranks know of it; all of them ask at the same points.

    Several processes ask each other while they compute, so that nobody waits: what comes between two points is known
    at the second.
    """

    def __init__(self, accelerator: Accelerator, timeout_s: float) -> None:
        """`timeout_s`: how long an answer may take, after which the process raises."""
        self._several = accelerator.num_processes > 1
        # On the CPU, whatever the device is: a GPU would have to be waited for.
        self._group: Any = (
            dist.new_group(timeout=timedelta(seconds=timeout_s), backend="gloo") if self._several else None
        )
        self._asked: tuple[Any, Tensor] | None = None

    def ask(self) -> int | None:
        """The number of the signal, as of the last time that this was called; None without one."""
        if not self._several:
            return get_held_signal()
        known = self.finish()
        number = torch.tensor(get_held_signal() or 0)
        self._asked = dist.all_reduce(number, dist.ReduceOp.MAX, self._group, async_op=True), number
        return known

    def finish(self) -> int | None:
        """Wait for the last question."""
        if self._asked is None:
            return None
        work, number = self._asked
        work.wait()
        self._asked = None
        return int(number) or None


class StopAtSignal(TrainerCallback):
    """Ends training at the step in which a signal is known to all ranks, with a checkpoint of that step.

    An evaluation that is due at this step is left to the resumed run, as is one in whose middle the signal comes: it
    raises `EvaluationStopped`.
    """

    def __init__(self, accelerator: Accelerator) -> None:
        self._accelerator = accelerator
        self._agreed: AgreedSignal | None = None
        self._training = False
        self.number: int | None = None
        """The signal for which training ends."""
        self.left = {"evaluate": False, "save": False}
        """What was due at that step and is left to the resumed run."""
        self.epoch_ended = False
        """Whether what is done at the end of an epoch is done for the last one."""

    def on_train_begin(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs: Any
    ) -> None:
        self._agreed, self._training = AgreedSignal(self._accelerator, args.ddp_timeout), True
        keep_connections_watched()
        self.number, self.left = None, {"evaluate": False, "save": False}

    def on_step_begin(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs: Any
    ) -> None:
        self.epoch_ended = False

    def on_epoch_end(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs: Any
    ) -> None:
        self.epoch_ended = True

    def on_step_end(self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs: Any) -> None:
        self._ask()
        if self.number is None:
            return
        self.left = {"evaluate": control.should_evaluate, "save": control.should_save}
        control.should_evaluate = False
        control.should_save = control.should_training_stop = True

    def on_prediction_step(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs: Any
    ) -> None:
        if not self._training:
            return
        self._ask()
        if self.number is not None:
            self.left = {"evaluate": True, "save": control.should_save}
            control.should_training_stop = True
            raise EvaluationStopped

    def on_train_end(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs: Any
    ) -> None:
        self._training = False
        if self._agreed is not None:
            self._agreed.finish()

    def _ask(self) -> None:
        self.number = None if self._agreed is None else self._agreed.ask()


def start_worker(seed: Callable[[int], object] | None, worker: int) -> None:
    """`worker_init_fn` of a data loader that had `seed` as its own: the worker ignores signals.

    One that is sent to all processes is the run's, which needs its rows to finish the step. A worker ends with its run,
    however that ends: it looks whether its parent is there.
    """
    # https://github.com/allenai/olmoearth_pretrain/issues/604: the workers died first, and the run with them.
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    signal.signal(signal.SIGTERM, signal.SIG_IGN)
    if seed is not None:
        seed(worker)
