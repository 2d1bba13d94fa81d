"""nonfinite.json: the steps of a run that were stopped or left out, with their rows by file and line; never a text."""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from hf_finetune.errors import Problem
from hf_finetune.files import write_atomically
from hf_finetune.folders import NON_FINITE
from hf_finetune.training.callbacks.first_steps import show_names

MAX_ROWS = 1_000
MAX_WEIGHTS = 20
LINES_SHOWN = 5

Cause = Literal["learning_rate", "weights", "loss", "gradient"]
Locate = Callable[[int], tuple[str, int]]

SAYS: dict[Cause, str] = {
    "learning_rate": "the learning rate is not finite",
    "weights": "weights were not finite before it ({names})",
    "loss": "the loss is not finite",
    "gradient": "the gradient is not finite ({names})",
}
BY_ROWS = ("loss", "gradient")
"""Causes that lie in rows, and pass with them."""


@dataclass(frozen=True, slots=True)
class NonFiniteStep:
    """A step that was not taken. Of the causes that lie in no row, `rows` are all of the step."""

    step: int
    """From 1, as the log counts."""
    action: Literal["stopped", "skipped"]
    cause: Cause
    loss: float
    gradient_norm: float
    weights: tuple[str, ...]
    """The first of those that are not finite, or whose gradient is not."""
    rows: tuple[int, ...]
    """Rows of the training split, counted from 0."""

    def as_dict(self, locate: Locate | None) -> dict[str, Any]:
        """JSON-ready; figures that are not finite are words."""
        places = [{"row": row} if locate is None else _name_place(locate, row) for row in self.rows[:MAX_ROWS]]
        return {
            "step": self.step,
            "action": self.action,
            "cause": self.cause,
            "loss": repr(self.loss),
            "gradient_norm": repr(self.gradient_norm),
            "weights": list(self.weights[:MAX_WEIGHTS]),
            "rows": places,
            "rows_in_all": len(self.rows),
        }

    def describe(self) -> str:
        """What is not finite."""
        names = show_names(list(self.weights)) or "its norm overflows"
        return SAYS[self.cause].format(names=names)

    def name_rows(self, locate: Locate | None) -> list[Problem]:
        """The first of the rows by file and line, with some more lines of its file; [] where none is known."""
        if locate is None or not self.rows or self.cause not in BY_ROWS:
            return []
        places = sorted({locate(row) for row in self.rows})
        path, line = places[0]
        more = [str(other) for file, other in places[1:] if file == path][:LINES_SHOWN]
        what = f"the {self.cause} of this row is not finite, or that of its batch"
        if more:
            what += f"; so of lines {', '.join(more)}"
        if len(places) > 1 + len(more):
            what += f"; nonfinite.json has all {len(places):,} rows"
        return [Problem(what, path=path, line=line, code="HF921")]


def write_record(folder: Path, steps: Sequence[dict[str, Any]]) -> None:
    """Write nonfinite.json for its owner alone, or remove it where there is nothing to record."""
    with suppress(OSError):  # a full disk, which a run goes on with, and one that stops says it by its exit code
        if steps:
            write_atomically(folder / NON_FINITE, json.dumps(list(steps), indent=2) + "\n", private=True)
        else:
            (folder / NON_FINITE).unlink(missing_ok=True)


def _name_place(locate: Locate, row: int) -> dict[str, Any]:
    path, line = locate(row)
    return {"file": path, "line": line}
