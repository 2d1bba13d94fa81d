"""How long each process of a run waits for the others, by what each notes of itself."""

from __future__ import annotations

import logging
import time
from collections import deque
from typing import Any

import torch
from accelerate import Accelerator
from transformers import TrainerCallback, TrainerControl, TrainerState, TrainingArguments

logger = logging.getLogger(__name__)

KEPT = 4096
"""Seconds that a process keeps until they are exchanged: no list grows with the steps."""
WORTH_SAYING = 0.1
"""Of the time of training, that others have waited for one process."""

Mark = float | torch.cuda.Event


class WaitClock(TrainerCallback):
    """Measures for each process the seconds that it has waited for others in the steps of training.

    Where processes exchange something they meet: all leave at once, when the last one has come. Each notes the seconds
    of its own from leaving one point to reaching the next, which asks nobody; a process has waited there for what the
    slowest one took longer than itself. The seconds are exchanged once in thousands of points, and at the end. The
    points of a step are those of `MeetingTrainer`. On a GPU it is the time of the device.
    """

    # A lower bound: where an evaluation lies between two points, and within a pass whose layers wait for each other,
    # what a process waits counts as its own.

    def __init__(self, accelerator: Accelerator) -> None:
        self._accelerator = accelerator
        self._several = accelerator.num_processes > 1
        self._begin()

    def _begin(self) -> None:
        self._left: Mark | None = None
        self._unread: deque[tuple[Mark, Mark]] = deque()
        self._own: list[float] = []
        self._began: float | None = None
        self._seconds = 0.0
        self.waited = torch.zeros(self._accelerator.num_processes, dtype=torch.float64)
        """Seconds that each process has waited for others, as of the last `settle`: (processes,)."""
        self.kept_others = torch.zeros_like(self.waited)
        """Seconds by which each was later than all others, where it was the last one: (processes,)."""

    def reach(self) -> None:
        """The point before something that all processes exchange: every rank calls it, as often as the others."""
        if self._left is None:
            return
        self._unread.append((self._left, self._mark()))
        self._left = None
        if len(self._unread) + len(self._own) >= KEPT:
            self.settle()

    def leave(self) -> None:
        """The point behind it."""
        if self._several:
            self._read(wait=False)
            self._left = self._mark()
            self._began = time.perf_counter() if self._began is None else self._began

    def settle(self) -> None:
        """Exchange what was noted; every rank calls it, at the same points."""
        self._read(wait=True)
        if not self._own:
            return
        own = torch.tensor(self._own, device=self._accelerator.device)
        self._own = []
        everywhere = self._accelerator.gather(own).view(len(self.waited), -1).double().cpu()  # (processes, points)
        last, second = everywhere.topk(2, dim=0).values  # (points,) each
        self.waited += (last - everywhere).sum(dim=1)
        self.kept_others.index_add_(0, everywhere.argmax(dim=0), last - second)

    def describe(self) -> dict[str, Any]:
        """What `distributed` of report.json has of it; {} of a single process."""
        if not self._several:
            return {}
        waited = [round(each, 3) for each in self.waited.tolist()]
        return {"waited_s": {"min": min(waited), "max": max(waited), "by_process": waited}}

    def save_state(self) -> dict[str, Any]:
        """As `checkpoints.state.Resumable` has it; every rank calls it."""
        self.settle()
        return {"waited": self.waited.tolist(), "kept_others": self.kept_others.tolist(), "seconds": self.measure()}

    def restore_state(self, state: dict[str, Any]) -> None:
        """Go on from what `save_state` has returned; begins anew with another number of processes."""
        if len(state["waited"]) == len(self.waited):
            self.waited = torch.tensor(state["waited"], dtype=torch.float64)
            self.kept_others = torch.tensor(state["kept_others"], dtype=torch.float64)
            self._seconds = float(state["seconds"])

    def measure(self) -> float:
        """The seconds within which it was measured."""
        return self._seconds + (0.0 if self._began is None else time.perf_counter() - self._began)

    def on_train_begin(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs: Any
    ) -> None:
        self._begin()

    def on_train_end(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs: Any
    ) -> None:
        self.settle()
        said = describe_slow(self.kept_others.tolist(), self.measure())
        if said and state.is_world_process_zero:
            logger.info(said)

    def _mark(self) -> Mark:
        if self._accelerator.device.type != "cuda":
            return time.perf_counter()
        # The host is ahead of its device, and does not see what that waits for.
        event = torch.cuda.Event(enable_timing=True)  # type: ignore[no-untyped-call]
        event.record()
        return event

    def _read(self, *, wait: bool) -> None:
        """Read the seconds of what the device has come past by now, or, with `wait`, of all."""
        while self._unread:
            left, reached = self._unread[0]
            if isinstance(left, torch.cuda.Event) and isinstance(reached, torch.cuda.Event):
                if not (wait or reached.query()):  # type: ignore[no-untyped-call]
                    return
                reached.synchronize()
                self._own.append(left.elapsed_time(reached) / 1000)
            elif isinstance(left, float) and isinstance(reached, float):
                self._own.append(reached - left)
            self._unread.popleft()


def describe_slow(kept_others: list[float], seconds: float) -> str | None:
    """The line about a process that the others have waited for; None where it is none, or now one, now another.

    `kept_others`: the seconds for which each was waited for, of the `seconds` of training.
    """
    if len(kept_others) < 2 or not seconds:
        return None
    second, most = sorted(kept_others)[-2:]
    # Rows of uneven length make now one process the last and now another.
    if most < WORTH_SAYING * seconds or most < 2 * second:
        return None
    share = f"{100 * most / seconds:.0f} %"
    return f"process {kept_others.index(most)} was slower: the others waited {share} of the time for it"
