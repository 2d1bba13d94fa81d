"""Stops a run that trains less than it says, in its first steps."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

import torch
from torch import Tensor, nn
from transformers import TrainerCallback, TrainerControl, TrainerState, TrainingArguments

from hf_finetune.errors import ModelError, NonFiniteError, Problem

STEPS_WATCHED = 5
NAMES_SHOWN = 10
# What an adapter's layer adds is zero at first because of these; as long as they stay, it adds nothing.
ZERO_AT_FIRST = (".lora_B.", ".lora_embedding_A.")


class TrainableGuard(TrainerCallback):
    """Check in the first steps that every trained weight gets a finite gradient, and that every `lora_B` moves.

    Gradients are looked at before the optimizer takes them, with accumulation after the last micro-batch; under DDP
    every rank holds the same. `lora_B` must have moved after five steps whose learning rate was not 0, or at the end
    where there were fewer. Raises `ModelError` for a weight without a gradient or one that stays, and `NonFiniteError`
    before it reaches the weights. Under fp16 a step that overflows is the loss scale's search, and is not counted.
    """

    def __init__(self) -> None:
        self.steps = 0
        self._began: dict[str, Tensor] = {}

    def on_train_begin(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs: Any
    ) -> None:
        self.steps = 0
        trained = _trained(kwargs["model"])
        self._began = {
            name: weight.detach().clone()
            for name, weight in trained.items()
            if any(part in name for part in ZERO_AT_FIRST)
        }

    def on_pre_optimizer_step(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs: Any
    ) -> None:
        if self.steps >= STEPS_WATCHED:
            return
        trained = _trained(kwargs["model"])
        without = [name for name, weight in trained.items() if weight.grad is None]
        if without:
            raise ModelError(_problem(without, "no gradient reaches them, so that they would stay as they are"))
        strange = [name for name, weight in trained.items() if not _is_finite(weight.grad)]
        if strange and not args.fp16:
            raise NonFiniteError(_problem(strange, f"their gradient in step {state.global_step + 1} is not finite"))
        self.steps += not strange and kwargs["optimizer"].param_groups[0]["lr"] > 0

    def on_step_end(self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs: Any) -> None:
        if self._began and self.steps == STEPS_WATCHED:
            self._check_moved(kwargs["model"])

    def on_train_end(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs: Any
    ) -> None:
        if self._began and self.steps > 0:
            self._check_moved(kwargs["model"])

    def _check_moved(self, model: nn.Module) -> None:
        trained = _trained(model)
        still = [name for name, began in self._began.items() if torch.equal(began, trained[name])]
        self._began = {}
        if still:
            raise ModelError(_problem(still, f"they have not moved in {self.steps} steps"))


def _trained(model: nn.Module) -> dict[str, nn.Parameter]:
    return {name: weight for name, weight in model.named_parameters() if weight.requires_grad}


def _is_finite(gradient: Tensor | None) -> bool:
    return gradient is None or bool(gradient.isfinite().all())


def _problem(names: Iterable[str], what: str) -> Problem:
    found = list(names)
    shown = ", ".join(found[:NAMES_SHOWN]) + (", ..." if len(found) > NAMES_SHOWN else "")
    remedy = "look at the data, learning rate and, with gradient checkpointing, whether inputs require gradients"
    return Problem(f"{len(found):,} trained weights are not trained as asked: {what} ({shown})", remedy)
