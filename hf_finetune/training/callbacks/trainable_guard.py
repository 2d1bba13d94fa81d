"""Stop a run in its first steps if a trainable parameter gets no gradient or does not move."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

import torch
from torch import Tensor, nn
from transformers import TrainerCallback, TrainerControl, TrainerState, TrainingArguments

from hf_finetune.errors import ModelError, NonFiniteError, Problem

STEPS_WATCHED = 5
NAMES_SHOWN = 3
# Initialized to zero, so that a LoRA layer adds nothing at first; as long as they stay zero, it never does.
ZERO_AT_FIRST = (".lora_B.", ".lora_embedding_A.")


class TrainableGuard(TrainerCallback):
    """Check in the first steps that every trained weight gets a finite gradient, and that every `lora_B` moves.

    Gradients are checked before the optimizer step, after the last micro-batch; under DDP they are equal on all ranks.
    `lora_B` must have moved after five steps with a learning rate above 0, or at the end of a shorter run. Raises
    `ModelError` for a weight without a gradient or one that has not moved, and `NonFiniteError` for a NaN or infinite
    gradient before it reaches the weights. Under fp16 an overflow is the search for a loss scale and is not counted.
    """

    # A layer that gets no gradient keeps its `lora_B` at zero and the run ends as if it had trained, as happens under
    # gradient checkpointing with frozen inputs: https://github.com/locuslab/open-unlearning/issues/178

    def __init__(self) -> None:
        self.steps = 0
        self._initial: dict[str, Tensor] = {}

    def on_train_begin(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs: Any
    ) -> None:
        self.steps = 0
        trained = _get_trained(kwargs["model"])
        self._initial = {
            name: weight.detach().clone()
            for name, weight in trained.items()
            if any(part in name for part in ZERO_AT_FIRST)
        }

    def on_pre_optimizer_step(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs: Any
    ) -> None:
        if self.steps >= STEPS_WATCHED:
            return
        trained = _get_trained(kwargs["model"])
        missing = [name for name, weight in trained.items() if weight.grad is None]
        if missing:
            raise ModelError(_make_problem(missing, "no gradient reaches them, so that they would stay as they are"))
        non_finite = [name for name, weight in trained.items() if not _is_finite(weight.grad)]
        if non_finite and not args.fp16:
            what = f"their gradient in step {state.global_step + 1} is not finite"
            raise NonFiniteError(_make_problem(non_finite, what))
        self.steps += not non_finite and kwargs["optimizer"].param_groups[0]["lr"] > 0

    def on_step_end(self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs: Any) -> None:
        if self._initial and self.steps == STEPS_WATCHED:
            self._check_moved(kwargs["model"])

    def on_train_end(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs: Any
    ) -> None:
        if self._initial and self.steps > 0:
            self._check_moved(kwargs["model"])

    def _check_moved(self, model: nn.Module) -> None:
        """Raise `ModelError` where a `lora_B` still has its initial value."""
        trained = _get_trained(model)
        unchanged = [name for name, initial in self._initial.items() if torch.equal(initial, trained[name])]
        self._initial = {}
        if unchanged:
            raise ModelError(_make_problem(unchanged, f"they have not moved in {self.steps} steps"))


def _get_trained(model: nn.Module) -> dict[str, nn.Parameter]:
    return {name: weight for name, weight in model.named_parameters() if weight.requires_grad}


def _is_finite(gradient: Tensor | None) -> bool:
    """Whether a gradient (any shape) has neither NaN nor infinity; True without one."""
    return gradient is None or bool(gradient.isfinite().all())


def _make_problem(names: Iterable[str], what: str) -> Problem:
    found = list(names)
    shown = ", ".join(found[:NAMES_SHOWN]) + (", ..." if len(found) > NAMES_SHOWN else "")
    remedy = "look at the data, learning rate and, with gradient checkpointing, whether inputs require gradients"
    return Problem(f"{len(found):,} trained weights are not trained as asked: {what} ({shown})", remedy)
