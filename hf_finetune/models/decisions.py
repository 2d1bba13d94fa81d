"""From a classifier's logits to probabilities and labels: a temperature for the first, thresholds for the second."""

from __future__ import annotations

import json
import math
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Literal

import numpy as np
import numpy.typing as npt

from hf_finetune.errors import ModelError, Problem
from hf_finetune.models.stored import stored_file

DECISION = "decision.json"

Array = npt.NDArray[np.float64]


@dataclass(frozen=True, slots=True)
class Decision:
    """How the logits of a classifier become probabilities and labels; `decision.json` in its folder.

    One label of several: the largest `probability / threshold`; thresholds add up to 1, and of two labels the second is
    chosen where its probability is at least its threshold. Any number of labels: each whose probability is at least its
    threshold. Both are a shift of the logits, which a head with a bias can hold (`offsets`). Raises ValueError for
    numbers that no such shift can be made of.
    """

    labels: tuple[str, ...]
    kind: Literal["single", "multi"]
    temperature: float = 1.0
    """Logits are divided by it (Guo et al., 2017, https://arxiv.org/abs/1706.04599)."""
    thresholds: tuple[float, ...] = ()
    """One for each label; by default 1 / labels each, or 0.5."""
    metric: str | None = None
    """The metric on validation that the thresholds were chosen for."""
    offsets_in_weights: bool = False
    """Whether the saved head adds `offsets` to its logits, so that the largest of them decides."""

    def __post_init__(self) -> None:
        if not self.thresholds:
            even = 1 / len(self.labels) if self.kind == "single" else 0.5
            object.__setattr__(self, "thresholds", (even,) * len(self.labels))
        if not (0 < self.temperature < math.inf and all(0 < threshold < 1 for threshold in self.thresholds)):
            raise ValueError("temperature must be above 0, and every threshold between 0 and 1")

    @property
    def offsets(self) -> Array:
        """What to add to calibrated logits so that the largest (several labels: each above 0) decides: (labels,)."""
        thresholds = np.asarray(self.thresholds, dtype=np.float64)
        if self.kind == "multi":
            return np.log1p(-thresholds) - np.log(thresholds)
        shift = -np.log(thresholds)
        return np.asarray(shift - shift[0])

    def probabilities(self, logits: Array) -> Array:
        """Of the logits as they were trained, (rows, labels)."""
        return self._normalised(np.asarray(logits, dtype=np.float64) / self.temperature)

    def saved_probabilities(self, logits: Array) -> Array:
        """Of the saved model's logits: its head holds the temperature, and perhaps the offsets, (rows, labels)."""
        scaled = np.asarray(logits, dtype=np.float64)
        return self._normalised(scaled - self.offsets if self.offsets_in_weights else scaled)

    def choose(self, probabilities: Array) -> npt.NDArray[np.int64]:
        """The number of each row's label, (rows,); of several labels 1 where one is given, (rows, labels)."""
        if self.kind == "multi":
            return (probabilities >= np.asarray(self.thresholds)).astype(np.int64)
        # From the last to the first, so that a probability just at its threshold has its label.
        ratios = (probabilities / np.asarray(self.thresholds))[:, ::-1]
        return np.asarray(len(self.labels) - 1 - ratios.argmax(axis=1), dtype=np.int64)

    def _normalised(self, scaled: Array) -> Array:
        if self.kind == "multi":
            return np.asarray(np.exp(-np.logaddexp(0.0, -scaled)))
        shifted = np.exp(scaled - scaled.max(axis=1, keepdims=True))
        return np.asarray(shifted / shifted.sum(axis=1, keepdims=True))


def write_decision(decision: Decision, folder: str | Path) -> None:
    values = asdict(decision) | {"thresholds": dict(zip(decision.labels, decision.thresholds, strict=True))}
    Path(folder, DECISION).write_text(json.dumps(values, indent=2, ensure_ascii=False) + "\n", encoding="utf-8")


def read_decision(folder: str | Path) -> Decision | None:
    """What a folder or Hub id says; None where it has no such file.

    Raises `ModelError` for a file that is not one of ours.
    """
    path = stored_file(str(folder), DECISION)
    if path is None:
        return None
    try:
        values: dict[str, Any] = json.loads(Path(path).read_text(encoding="utf-8"))
        labels = tuple(values.pop("labels"))
        thresholds = tuple(float(values["thresholds"][label]) for label in labels)
        return Decision(labels, **values | {"thresholds": thresholds})
    except (ValueError, KeyError, TypeError, AttributeError) as problem:
        what, remedy = f"cannot be read ({problem})", "remove it (labels are then those of the largest probability)"
        raise ModelError(Problem(what, remedy, path=path)) from problem
