"""The labels of a data set, frozen from its training rows, and the map that makes them those of a model."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import chain
from typing import Any, Literal

import numpy as np
import numpy.typing as npt

from hf_finetune.config.reading.document import format_value
from hf_finetune.errors import DataError, Problem, find_closest

REGRESSION_NAME = "value"
LABEL_MAP = "data.labels"
LABELS_AT_ONCE = 10_000
MAX_MAPPED = 20
"""More labels than a message can hold a map of."""

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
        rows = chain.from_iterable(labels for _, labels in iterate_labels(column))
        if self.kind == "number":
            return np.fromiter(rows, dtype=np.float32, count=len(column))
        # Strings and integers, never both: the decoder rejects a label of another type than the first.
        number_of = {value: number for number, value in enumerate(self.values)}
        try:
            if self.kind == "single":
                return np.fromiter((number_of[label] for label in rows), dtype=np.int64, count=len(column))
            encoded = np.zeros((len(column), len(self.names)), dtype=np.float32)
            for row, labels in enumerate(rows):
                encoded[row, [number_of[label] for label in labels]] = 1.0
        except KeyError as unknown:
            what = f"{format_value(unknown.args[0])} is none of the labels"
            raise DataError(Problem(what, f"they are {', '.join(self.names)}", code="HF541")) from None
        return encoded


def iterate_labels(column: Sequence[Any]) -> Iterator[tuple[int, Sequence[Any]]]:
    """Yield the labels of a split some at a time, with the number of the first row of them."""
    # A `datasets` column is read row by row when it is iterated, and whole by [:].
    for start in range(0, len(column), LABELS_AT_ONCE):
        yield start, column[start : start + LABELS_AT_ONCE]


def suggest_label_map(found: Sequence[str], known: Sequence[str]) -> str:
    """Suggest the map from the labels of rows to those of a model, as it is pasted into a run file; "" where either
    has too many.

    Which label means which only the user knows: likely ones are those of the same number, then of like names, then
    those that are left.
    """
    # neg, pos and NEGATIVE, POSITIVE -> "`data.labels: {neg: NEGATIVE, pos: POSITIVE}`"
    if not (0 < len(found) <= MAX_MAPPED and 0 < len(known) <= MAX_MAPPED):
        return ""
    if set(found) <= set(map(str, range(len(known)))):
        return format_label_map({label: known[int(label)] for label in found})
    named = {label: _find_alike(label, known) for label in found}
    free = [name for name in known if name not in named.values()]
    rest = [label for label in found if named[label] is None]
    # Five stars and two labels: the first half of them is the first label.
    left = {label: (free or known)[place * len(free or known) // len(rest)] for place, label in enumerate(rest)}
    return format_label_map({label: named[label] or left[label] for label in found})


def _find_alike(label: str, known: Sequence[str]) -> str | None:
    """Find the name that is the label in another case, begins with it, or is spelled almost like it."""
    wanted = label.strip().casefold()
    begins = [name for name in known if wanted and name.casefold().startswith(wanted)]
    return begins[0] if begins else find_closest(label, known)


def format_label_map(names: Mapping[str, str]) -> str:
    """Write a map of labels as a line of a run file: "`data.labels: {pos: POSITIVE, neg: NEGATIVE}`"."""
    return f"`{LABEL_MAP}: {{{', '.join(f'{_quote(label)}: {_quote(name)}' for label, name in names.items())}}}`"


def _quote(name: str) -> str:
    plain = name.replace("_", "").isalnum() and name.isascii() and name.casefold() not in _YAML_WORDS
    return name if plain else json.dumps(name, ensure_ascii=False)


# What YAML 1.1 reads as no text.
_YAML_WORDS = {"yes", "no", "on", "off", "true", "false", "null", "y", "n"}
