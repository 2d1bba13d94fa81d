"""The decision of a classifier: logits to probabilities by a temperature, probabilities to labels by thresholds."""

from __future__ import annotations

import json
import math
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Literal

import numpy as np
import numpy.typing as npt

from hf_finetune.folders.decision_record import DECISION, read_decision_record
from hf_finetune.models.files.locate import find_file

Array = npt.NDArray[np.float64]


@dataclass(frozen=True, slots=True)
class Decision:
    """Temperature and thresholds of a classifier; stored as `decision.json` in its folder.

    "single": the label with the largest `probability / threshold`; the thresholds add up to 1, so that of two labels
    the second is chosen if its probability is at least its threshold. "multi": every label whose probability is at
    least its threshold. Both equal a shift of the logits, which a head with a bias can hold (`offsets`). Raises
    ValueError for a temperature of 0 or less and for a threshold outside (0, 1).
    """

    # Two labels with thresholds (0.7, 0.3) and probabilities (0.65, 0.35): the ratios are 0.93 and 1.17, the second
    # label. offsets = -log(thresholds), less the first: (0, 0.85), and log(0.65), log(0.35) + 0.85 has the same argmax.

    labels: tuple[str, ...]
    kind: Literal["single", "multi"]
    temperature: float = 1.0
    """Divides the logits (Guo et al., 2017, https://arxiv.org/abs/1706.04599)."""
    thresholds: tuple[float, ...] = ()
    """One per label; by default 1 / labels ("single") or 0.5 ("multi")."""
    metric: str | None = None
    """The validation metric that the thresholds maximize."""
    offsets_in_weights: bool = False
    """Whether the saved head's bias holds `offsets`, so that its argmax ("multi": > 0) is the decision."""

    def __post_init__(self) -> None:
        if not self.thresholds:
            even = 1 / len(self.labels) if self.kind == "single" else 0.5
            object.__setattr__(self, "thresholds", (even,) * len(self.labels))
        if not (0 < self.temperature < math.inf and all(0 < threshold < 1 for threshold in self.thresholds)):
            raise ValueError("temperature must be above 0, and every threshold between 0 and 1")

    @property
    def has_thresholds(self) -> bool:
        """Whether a threshold differs from what the likeliest label ("multi": likelier than not) needs."""
        return self.thresholds != Decision(self.labels, self.kind).thresholds

    @property
    def offsets(self) -> Array:
        """Added to logits / temperature, they make argmax ("multi": > 0) apply the thresholds: (labels,), float64."""
        thresholds = np.asarray(self.thresholds, dtype=np.float64)
        if self.kind == "multi":
            return np.log1p(-thresholds) - np.log(thresholds)
        shift = -np.log(thresholds)
        return np.asarray(shift - shift[0])

    def compute_probabilities(self, logits: Array) -> Array:
        """Probabilities (rows, labels) from the logits (rows, labels) of the model as it was trained."""
        return self._normalize(np.asarray(logits, dtype=np.float64) / self.temperature)

    def compute_saved_probabilities(self, logits: Array) -> Array:
        """Probabilities (rows, labels) from the logits (rows, labels) of the saved model.

        Its head holds the temperature already, and the offsets if it has a bias: these are subtracted again.
        """
        return self.compute_probabilities(self.restore_logits(logits))

    def restore_logits(self, logits: Array) -> Array:
        """The logits of the model as it was trained, (rows, labels), from those of the saved model."""
        scaled = np.asarray(logits, dtype=np.float64)
        return (scaled - self.offsets if self.offsets_in_weights else scaled) * self.temperature

    def choose(self, probabilities: Array) -> npt.NDArray[np.int64]:
        """Choose by probabilities (rows, labels): an index per row, (rows,), or for "multi" 0 and 1, (rows, labels)."""
        if self.kind == "multi":
            return (probabilities >= np.asarray(self.thresholds)).astype(np.int64)
        # argmax takes the first of equals. Reversed, the later label wins a tie: of two, the second at its threshold.
        ratios = (probabilities / np.asarray(self.thresholds))[:, ::-1]
        return np.asarray(len(self.labels) - 1 - ratios.argmax(axis=1), dtype=np.int64)

    def _normalize(self, scaled: Array) -> Array:
        """Sigmoid of each logit ("multi") or softmax of each row ("single"): (rows, labels) -> (rows, labels)."""
        if self.kind == "multi":
            return np.asarray(np.exp(-np.logaddexp(0.0, -scaled)))
        shifted = np.exp(scaled - scaled.max(axis=1, keepdims=True))
        return np.asarray(shifted / shifted.sum(axis=1, keepdims=True))


def write_decision(decision: Decision, folder: str | Path) -> None:
    """Write `decision.json` into a model's folder, with the thresholds by label."""
    values = asdict(decision) | {"thresholds": dict(zip(decision.labels, decision.thresholds, strict=True))}
    Path(folder, DECISION).write_text(json.dumps(values, indent=2, ensure_ascii=False) + "\n", encoding="utf-8")


def read_decision(folder: str | Path) -> Decision | None:
    """Read the `decision.json` of a folder or Hub id; None where it has none.

    Raises `ModelError` for a value of another kind, and for an impossible one.
    """
    path = find_file(str(folder), DECISION)
    if path is None:
        return None
    record = read_decision_record(Path(path))
    thresholds = tuple(record.thresholds[label] for label in record.labels)
    return Decision(
        record.labels, record.kind, record.temperature, thresholds, record.metric, record.offsets_in_weights
    )
