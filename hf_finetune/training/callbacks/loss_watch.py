"""What goes wrong with finite numbers: no gradient, no loss, no learning rate, a loss that explodes."""

from __future__ import annotations

import logging
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass, field
from statistics import median
from typing import Any

from hf_finetune.errors import ModelError, NonFiniteError, Problem

logger = logging.getLogger(__name__)

STEPS_AT_ZERO = 3
STEPS_WITHOUT_GRADIENT = 6
"""From the first on: one more than `FirstSteps` takes to name the weights of an adapter."""
WINDOW = 20
# Healthy runs stay below twice their first losses (`reporting.diagnosis.divergence`). A loss near zero may rise to a
# multiple of itself: 3 nats are about a language model's way from good to guessing.
EXPLODED = 3.0
EXPLODED_BY = 3.0
EARLIEST = WINDOW // 2
"""Losses within which a jump to an explosion is looked for: what is before it is what the run began with."""
JUMP = 10.0
FLAT = 0.01
"""Of the loss that a run began with: how far the recent ones are from it, all of them, where nothing is left of it."""
MAX_OVERFLOWS = 40  # each halves the scale of a loss: from 2**16 down to 2**-24


@dataclass
class LossWatch:
    """Watches the figures of each step that is taken, equal on all ranks.

    Stops a run that gets no gradient from its first step on (`ModelError`), and one whose loss explodes or whose
    gradients overflow under every scale (`NonFiniteError`). Warns once of a gradient or loss that becomes zero later,
    as of rows that are known by heart, and of a learning rate that is zero after the warm-up: these lose nothing.
    """

    first: list[float] = field(default_factory=list)
    """The losses of the first steps."""
    recent: list[float] = field(default_factory=list)
    highest: float = 0.0
    """The highest loss before the recent ones."""
    had_gradient: bool = False
    in_a_row: dict[str, int] = field(default_factory=dict)
    """Steps in a row at which a figure was zero, by its name."""
    warned: list[str] = field(default_factory=list)

    def save(self) -> dict[str, Any]:
        """What a checkpoint keeps."""
        return asdict(self)

    def look(
        self, loss: float, norm: float, rate: float | None, *, overflow: bool = False, kept: Callable[[], str]
    ) -> None:
        """See a step: its loss, the norm of its gradient, its learning rate (None in the warm-up).

        `overflow`: under fp16 the gradient has overflowed, and the step is not taken. `kept` says what is kept of a run
        that is stopped.
        """
        self._see_gradient(norm, overflow=overflow)
        if self._count("loss", loss == 0) and norm:
            self._warn("loss", "the loss is exactly 0 for %d steps: nothing is left to learn, or nothing is measured")
        if self._count("rate", rate == 0):
            self._warn("rate", "the learning rate is 0 for %d steps: nothing is learned until the schedule raises it")
        self._see_loss(loss, kept)

    def _see_gradient(self, norm: float, *, overflow: bool) -> None:
        self.in_a_row["overflow"] = self.in_a_row.get("overflow", 0) + 1 if overflow else 0
        if self.in_a_row["overflow"] >= MAX_OVERFLOWS:
            what = f"the gradients have overflowed for {MAX_OVERFLOWS} steps, whatever the loss was scaled by"
            raise NonFiniteError(
                Problem(what, "set train.bf16=true in place of train.fp16, or lower learning_rate", code="HF924")
            )
        self.had_gradient |= norm != 0
        gone = self._count("gradient", norm == 0)
        if not self.had_gradient and self.in_a_row["gradient"] == STEPS_WITHOUT_GRADIENT:
            what = f"the gradient was exactly 0 in each of the first {STEPS_WITHOUT_GRADIENT} steps: nothing is learned"
            remedy = "look at whether rows have anything to train (labels, data.loss_on), and at what is frozen"
            raise ModelError(Problem(what, remedy, code="HF925"))
        if gone and self.had_gradient:
            self._warn("gradient", "the gradient is exactly 0 for %d steps: no weight learns anything any more")

    def _see_loss(self, loss: float, kept: Callable[[], str]) -> None:
        if len(self.first) < WINDOW:
            self.first.append(loss)
            self.highest = max(self.highest, loss)
            return
        self.recent.append(loss)
        if len(self.recent) > WINDOW:
            self.highest = max(self.highest, self.recent.pop(0))
        if len(self.recent) < WINDOW:
            return
        # A median is one of the values, so that it is past a limit only where half of them are: counted at once.
        began = find_beginning(self.first)
        limit = find_limit(began)
        if sum(each > limit for each in self.recent) > WINDOW // 2:
            what = f"the loss explodes: {median(self.recent):.4g} in the last {WINDOW} steps, {began:.4g} in the first"
        # Weights that a step has thrown far away give every token the same probability: 6.24, 1e7, 6.24, 6.24, ...
        elif self.highest > JUMP * abs(began) + EXPLODED_BY and is_flat(self.recent, began):
            what = f"the loss rose to {self.highest:.4g}, and has been {began:.4g} for {WINDOW} steps, as it began"
        else:
            return
        # Not in the same folder: its last checkpoint may be of the steps behind the jump.
        remedy = "begin again in another output_dir with a lower train.learning_rate, or longer train.warmup_steps"
        raise NonFiniteError(Problem(what, f"{remedy}; {kept()}", code="HF927"))

    def _count(self, name: str, zero: bool) -> bool:
        """Count the steps in a row; whether there are enough of them."""
        self.in_a_row[name] = self.in_a_row.get(name, 0) + 1 if zero else 0
        return self.in_a_row[name] >= STEPS_AT_ZERO

    def _warn(self, name: str, what: str) -> None:
        if name not in self.warned:
            self.warned.append(name)
            logger.warning(what, STEPS_AT_ZERO, extra={"code": "HF926"})


def find_beginning(first: Sequence[float]) -> float:
    """The loss with which a run began: the median of the first ones, or of those before they exploded."""
    # The first is that of the weights before any step: 6.2, 3362, 2900, ... began with 6.2, and not with 2900. All that
    # come after are ten times as high; one easy batch is no beginning, unless it is further off from them than they are
    # from their middle.
    for count in range(1, min(EARLIEST, len(first) - 1) + 1):
        before, after = max(first[:count]), min(first[count:])
        far = count > 1 or after * after > abs(before) * median(first[count:])
        if far and after > JUMP * abs(before) + EXPLODED_BY:
            return median(first[:count])
    return median(first)


def is_flat(recent: Sequence[float], began: float) -> bool:
    """Whether all losses are that of the beginning, which no batches are for a model that tells tokens apart."""
    return max(abs(each - began) for each in recent) <= FLAT * abs(began)


def find_limit(began: float) -> float:
    """The loss from which one that began with `began` has exploded."""
    return EXPLODED * abs(began) + EXPLODED_BY
