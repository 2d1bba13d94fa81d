"""Whether every trained weight is trained: gradients reach it in the first steps, and what is zero at first moves."""

from __future__ import annotations

from collections.abc import Iterable

import torch
from accelerate.utils import gather_object
from torch import Tensor, nn

from hf_finetune.errors import ModelError, Problem
from hf_finetune.models.weights.sharding import get_own_part, split_again

STEPS_WATCHED = 5
NAMES_SHOWN = 3
# Initialized to zero, so that a LoRA layer adds nothing at first; as long as they stay zero, it never does.
ZERO_AT_FIRST = (".lora_B.", ".lora_embedding_A.")


class FirstSteps:
    """Check in the first steps that every trained weight gets a gradient, and that every `lora_B` moves.

    `lora_B` must have moved after five steps with a learning rate above 0, or at the end of a shorter run. Raises
    `ModelError` for a weight without a gradient or one that has not moved.
    """

    # A layer that gets no gradient keeps its `lora_B` at zero and the run ends as if it had trained, as happens under
    # gradient checkpointing with frozen inputs: https://github.com/locuslab/open-unlearning/issues/178

    def __init__(self, model: nn.Module) -> None:
        self.steps = 0
        """Steps with finite gradients and a learning rate above 0."""
        split_again(model)
        self._initial = {
            name: get_own_part(weight).detach().clone()
            for name, weight in get_trained(model).items()
            if any(part in name for part in ZERO_AT_FIRST)
        }

    def check_gradients(self, model: nn.Module, *, counts: bool) -> None:
        """Look at the gradients of a step before it is taken; `counts`: whether it can move the weights."""
        if self.steps >= STEPS_WATCHED:
            return
        missing = [name for name, weight in get_trained(model).items() if weight.grad is None]
        if missing:
            raise ModelError(_make_problem(missing, "no gradient reaches them, so that they would stay as they are"))
        self.steps += counts

    def check_moved(self, model: nn.Module, *, at_end: bool = False) -> None:
        """Look at what was zero at first, once, after five steps or at the end."""
        if not self._initial or self.steps < (1 if at_end else STEPS_WATCHED):
            return
        trained = get_trained(model)
        unchanged = [
            name for name, initial in self._initial.items() if torch.equal(initial, get_own_part(trained[name]))
        ]
        self._initial = {}
        # Of a weight that is split over processes one part may be empty, or stay as it is.
        everywhere = set.intersection(*map(set, gather_object([unchanged])))
        unchanged = [name for name in unchanged if name in everywhere]
        if unchanged:
            raise ModelError(_make_problem(unchanged, f"they have not moved in {self.steps} steps"))


def get_trained(model: nn.Module) -> dict[str, nn.Parameter]:
    """The weights that are trained, by name."""
    return {name: weight for name, weight in model.named_parameters() if weight.requires_grad}


def find_non_finite(tensors: Iterable[tuple[str, Tensor | None]]) -> list[str]:
    """The names of those (any shape) that have NaN or infinity, in the part that this process holds."""
    parts = [(name, get_own_part(values)) for name, values in tensors if values is not None]
    named = [(name, part) for name, part in parts if part.numel()]
    if not named:
        return []
    # Smallest and largest, which are NaN where one value is: a thirtieth of the time of `isfinite` on a CPU (torch
    # 2.13), and one wait for the device.
    bounds = [torch.stack(torch.aminmax(values.detach())).double() for _, values in named]
    finite = torch.stack([each.to(bounds[0].device) for each in bounds]).isfinite().all(dim=1).tolist()
    return [name for (name, _), is_finite in zip(named, finite, strict=True) if not is_finite]


def show_names(names: list[str]) -> str:
    """The first names: "a, b, c, ..."."""
    return ", ".join(names[:NAMES_SHOWN]) + (", ..." if len(names) > NAMES_SHOWN else "")


def _make_problem(names: list[str], what: str) -> Problem:
    remedy = "look at the data, learning rate and, with gradient checkpointing, whether inputs require gradients"
    return Problem(
        f"{len(names):,} trained weights are not trained as asked: {what} ({show_names(names)})", remedy, code="HF928"
    )
