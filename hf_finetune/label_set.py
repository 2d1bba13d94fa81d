"""The labels of a data set, frozen from its training rows."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
import numpy.typing as npt

from hf_finetune.config.reading.document import format_value
from hf_finetune.errors import DataError, Problem

REGRESSION_NAME = "value"

LabelsKind = Literal["single", "multi", "number"]
ProblemType = Literal["single_label_classification", "multi_label_classification", "regression"]

_PROBLEM_TYPES: dict[LabelsKind, ProblemType] = {
    "single": "single_label_classification",
    "multi": "multi_label_classification",
    "number": "regression",
}


@dataclass(frozen=True)
class Labels:
    """The classes of a run in the order of the model's logits; for regression a single target, named "value"."""

    names: tuple[str, ...]
    kind: LabelsKind
    values: tuple[str | int, ...] = ()
    """The labels as the rows have them; empty for regression."""

    @property
    def id2label(self) -> dict[int, str]:
        return dict(enumerate(self.names))

    @property
    def label2id(self) -> dict[str, int]:
        return {name: number for number, name in enumerate(self.names)}

    @property
    def problem_type(self) -> ProblemType:
        """The `problem_type` of transformers, which it would else guess from the dtype of the labels."""
        return _PROBLEM_TYPES[self.kind]

    def encode(self, column: Sequence[Any]) -> npt.NDArray[Any]:
        """Encode the label column of a split, (rows,).

        single: int64 (rows,); multi: 0.0 and 1.0 as float32 (rows, labels); number: float32 (rows,).
        Raises DataError for a label that is none of `values`.
        """
        rows = column[:]  # a `datasets` column is read at once by [:], but row by row when iterated
        if self.kind == "number":
            return np.asarray(rows, dtype=np.float32)
        # Strings and integers, never both: the decoder rejects a label of another type than the first.
        number_of = {value: number for number, value in enumerate(self.values)}
        try:
            if self.kind == "single":
                return np.fromiter((number_of[label] for label in rows), dtype=np.int64, count=len(rows))
            encoded = np.zeros((len(rows), len(self.names)), dtype=np.float32)
            for row, labels in enumerate(rows):
                encoded[row, [number_of[label] for label in labels]] = 1.0
        except KeyError as unknown:
            what = f"{format_value(unknown.args[0])} is none of the labels"
            raise DataError(Problem(what, f"they are {', '.join(self.names)}")) from None
        return encoded
