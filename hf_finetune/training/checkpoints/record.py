"""What a checkpoint says of its run, and whether one that goes on from it is the same: before a step is taken.

Adapters that were wrapped a second time have trained anew under the old name, and a base that was not frozen again has
trained with its adapter (https://github.com/huggingface/lerobot/pull/3459,
https://github.com/Blaizzy/mlx-vlm/issues/2178).
"""

from __future__ import annotations

import math
from collections import deque
from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor, nn

from hf_finetune.errors import ModelError, Problem
from hf_finetune.folders import RESUME
from hf_finetune.models.weights.sharding import count_numbers

COUNT, LOSSES = "trainable", "losses"
KEPT_LOSSES = 64
FEWEST_LOSSES = 8
"""Of fewer steps nothing is known about what is usual."""


class StepLosses:
    """The losses of the last optimizer steps of this process, left on its device until they are asked for."""

    def __init__(self) -> None:
        self._steps: deque[Tensor | float] = deque(maxlen=KEPT_LOSSES)
        self._running: Tensor | None = None

    def add(self, loss: Tensor, *, ends_step: bool) -> Tensor | None:
        """Add the loss of a micro-batch, a scalar; returns that of the whole step where it is the last of one."""
        loss = loss.detach()
        self._running = loss if self._running is None else self._running + loss
        if not ends_step:
            return None
        whole, self._running = self._running, None
        self._steps.append(whole)
        return whole

    def read(self) -> list[float]:
        """Those of the last steps, the oldest first; waits for the device once."""
        tensors = [each for each in self._steps if isinstance(each, Tensor)]
        values = iter(torch.stack(tensors).tolist() if tensors else [])
        self._steps = deque((next(values) if isinstance(each, Tensor) else each for each in self._steps), KEPT_LOSSES)
        return [float(each) for each in self._steps if isinstance(each, float) and math.isfinite(each)]

    def restore(self, losses: Sequence[float]) -> None:
        """Go on with those that a checkpoint has kept."""
        self._steps = deque((float(each) for each in losses), KEPT_LOSSES)


def count_trainable(model: nn.Module) -> int:
    """How many values of a model are trained."""
    return sum(count_numbers(each) for each in model.parameters() if each.requires_grad)


def check_count(model: nn.Module, facts: dict[str, Any]) -> None:
    """Raise `ModelError` where another number of values is trained than up to the checkpoint."""
    before, now = facts.get(COUNT), count_trainable(model)
    if before is not None and before != now:
        what = f"{now:,} values would be trained, and up to the checkpoint it was {before:,}"
        remedy = "leave model.train_only and the sections model and lora as they were (see run.yaml)"
        raise ModelError(Problem(what, remedy, key=RESUME, code="HF901"))


def check_first_loss(loss: float, losses: Sequence[float], step: int) -> None:
    """Raise `ModelError` where the first step after a checkpoint has a loss far above all of the steps before it."""
    bound = find_bound(losses)
    if bound is not None and loss > bound:
        what = f"step {step}, the first after the checkpoint, has a loss of {loss:.4g}: the {len(losses)} steps before"
        what += f" had {min(losses):.4g} to {max(losses):.4g}, so that this is not the model which was trained"
        remedy = "put model and data back as they were; where its rows are to be so hard, go on from an earlier one"
        raise ModelError(Problem(what, remedy, key=RESUME, code="HF903"))


def find_bound(losses: Sequence[float]) -> float | None:
    """A loss that no step has whose model is the one of these steps; None where they are too few to tell."""
    # Far beyond what noise does: the losses of single rows differ by a factor of a few, and a row in hundreds is twice
    # as hard as any before it. A model that has lost its weights is at the logarithm of its vocabulary.
    if len(losses) < FEWEST_LOSSES:
        return None
    return max(losses) + 3 * (max(losses) - min(losses)) + max(1.0, max(losses))
