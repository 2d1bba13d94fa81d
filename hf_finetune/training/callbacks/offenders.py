"""Which rows of a step have a loss or a gradient that is not finite: found after the step was stopped."""

from __future__ import annotations

import math
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from itertools import islice
from typing import Any, Protocol

import torch
from accelerate import Accelerator
from torch import Tensor, nn
from transformers import TrainerControl, TrainerState, TrainingArguments

from hf_finetune.data.tokenization.collators import take_examples, take_row
from hf_finetune.data.tokenization.text import IGNORE_INDEX
from hf_finetune.training.callbacks.first_steps import get_trained
from hf_finetune.training.checkpoints.random_state import read_random_state, restore_random_state

MAX_ROWS_TRIED = 256
"""Rows of a step, on each rank, that are computed one by one: about as long as a step of so many rows takes."""


@dataclass(frozen=True, slots=True)
class MicroBatch:
    """What one forward and backward pass was of."""

    inputs: dict[str, Any]
    items: Any
    """`num_items_in_batch`, by which the losses of a step are divided."""
    loss: Tensor
    sources: tuple[tuple[int, ...], ...]
    """For each row the rows of the split that it is made of."""


class StoppedTrainer(Protocol):
    """The part of a Trainer that computes a loss again."""

    model: Any
    accelerator: Accelerator
    optimizer: Any
    args: TrainingArguments
    state: TrainerState
    checkpoints: Any
    control: TrainerControl

    @property
    def computes_alone(self) -> bool:
        """Whether a loss can be computed without the other ranks, and leaves no trace."""

    def compute_row_loss(self, inputs: dict[str, Any], items: Any) -> Tensor: ...


def find_rows(trainer: StoppedTrainer, batches: Sequence[MicroBatch], *, by_loss: bool) -> list[int]:
    """Find the rows of the split that a value which is not finite comes from, on this rank alone.

    `by_loss`: the loss of the step is not finite, on some rank; else its gradient is. Micro-batches whose own loss is
    finite are left out, and the rows of the others computed one by one. Where none of these fails by itself, all of
    their rows are returned. Gradients are gone after it.
    """
    suspected = [batch for batch in batches if not by_loss or not math.isfinite(batch.loss.item())]
    if not trainer.computes_alone:
        return _list_sources(suspected)
    with as_before(trainer.model):
        if by_loss:
            return [row for batch in suspected for row in _find_in(trainer, [batch], by_loss=True)]
        return _find_in(trainer, suspected, by_loss=False)


def _find_in(trainer: StoppedTrainer, batches: Sequence[MicroBatch], *, by_loss: bool) -> list[int]:
    """The rows that fail by themselves, or all of them where none does."""
    found: list[int] = []
    places = ((batch, row) for batch in batches for row in range(len(batch.sources)))
    for one, row in islice(places, MAX_ROWS_TRIED):
        inputs = take_row(one.inputs, row, len(one.sources))
        if not _is_sound(trainer, inputs, one.items, by_loss=by_loss):
            found += _narrow(trainer, inputs, one.items, one.sources[row], by_loss=by_loss)
    return found or _list_sources(batches)


def _narrow(
    trainer: StoppedTrainer, inputs: dict[str, Any], items: Any, sources: tuple[int, ...], *, by_loss: bool
) -> Sequence[int]:
    """Which of the rows that are packed into one fail by themselves; all of them where none does, or no bounds tell."""
    examples = take_examples(inputs)
    if len(examples) > len(sources) and bool((examples[-1]["labels"] == IGNORE_INDEX).all()):
        del examples[-1]  # padding
    if len(sources) == 1 or len(examples) != len(sources):
        return sources
    pairs = zip(examples, sources, strict=True)
    return [row for example, row in pairs if not _is_sound(trainer, example, items, by_loss=by_loss)] or sources


def _is_sound(trainer: StoppedTrainer, inputs: dict[str, Any], items: Any, *, by_loss: bool) -> bool:
    """Whether a row has a finite loss, and a finite gradient where that is asked."""
    with torch.set_grad_enabled(not by_loss):
        loss = trainer.compute_row_loss(inputs, items)
    if by_loss or not math.isfinite(loss.item()):
        return math.isfinite(loss.item())
    trainer.model.zero_grad()
    # Not through the wrapper of DDP, whose hooks wait for no gradients then: nothing is sent to the other ranks.
    loss.backward()  # type: ignore[no-untyped-call]
    return math.isfinite(measure_gradients(get_trained(trainer.model).values()).item())


def measure_gradients(weights: Iterable[nn.Parameter]) -> Tensor:
    """The norm of all gradients together, a scalar, as `clip_grad_norm_` measures it."""
    return torch.nn.utils.get_total_norm([weight.grad for weight in weights if weight.grad is not None])


def _list_sources(batches: Sequence[MicroBatch]) -> list[int]:
    return [source for batch in batches for row in batch.sources for source in row]


@contextmanager
def as_before(model: nn.Module) -> Iterator[None]:
    """Put back the random generators, and drop the gradients, when the block ends: a run may go on from there."""
    state = read_random_state()
    try:
        yield
    finally:
        restore_random_state(state)
        model.zero_grad()
