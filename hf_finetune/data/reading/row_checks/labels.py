"""Checks of labels: of the type that the first one set, not blank, named once in its row, and written in one way."""

from __future__ import annotations

import re
import unicodedata
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from fractions import Fraction
from typing import Any

from hf_finetune.config.reading.document import format_value
from hf_finetune.data.labels.label_map import LabelMap
from hf_finetune.data.reading.formats import LabelKind
from hf_finetune.data.reading.json_line import LineError
from hf_finetune.data.reading.row_types import Label
from hf_finetune.errors import Problem
from hf_finetune.metric_info import say_count

# Python turns no longer text into a number: https://github.com/python/cpython/issues/95778
_LONGEST_NUMBER = 1_000
_NUMBER = re.compile(r"[+-]?[0-9]+(\.[0-9]+)?", re.ASCII)
_ALLOW_EMPTY = "give it one, or set data.allow_empty: true where none of the labels fits"


@dataclass(slots=True)
class LabelRule:
    """The type of label that the first labelled row set, and the place of that row."""

    kind: LabelKind | None = None
    place: str = ""
    allow_empty: bool = False
    """A row may have no label, `[]`."""
    names: LabelMap = field(default_factory=lambda: LabelMap({}))
    """`data.labels`, which every label has to be in."""

    @property
    def is_settled(self) -> bool:
        """Whether no row can change the type any more."""
        return self.kind not in (None, "empty list")

    @property
    def run_kind(self) -> LabelKind | None:
        """The type of the labels as `names` has them: text, where it has any."""
        if not self.names or self.kind not in ("integer", "list of integers"):
            return self.kind
        return "string" if self.kind == "integer" else "list of strings"

    def pass_fast_check(self, labels: Sequence[Any]) -> bool:
        """Fast path: True if every label surely has the expected type; False means "check each"."""
        if self.kind == "number":
            return True
        if self.names and not (self.kind in ("string", "integer") and self.names.knows_all(labels)):
            return False
        if self.kind == "integer":
            return set(map(type, labels)) == {int}
        plain = self.kind == "string" and set(map(type, labels)) == {str}
        return plain and all(labels) and not any(map(str.isspace, labels))

    def check(self, label: Any, place: str, key: str) -> None:
        """Check one label against the type that the first one set, or set it. Raises LineError."""
        if self.kind == "number":
            return
        kind = get_label_kind(label)
        if kind is None:
            raise LineError(
                "the list of labels mixes strings and integers", "write all labels as strings", key=key, code="HF300"
            )
        self._check_value(label if isinstance(label, list) else [label], key)
        # An empty list says nothing about its elements: the first list that has some sets the type.
        settles = self.kind is None or (self.kind == "empty list" and kind.startswith("list of"))
        if settles:
            self.kind, self.place = kind, place
        elif kind != self.kind and not (kind == "empty list" and str(self.kind).startswith("list of")):
            remedy = "write all labels in one type"
            if {kind.rstrip("s"), str(self.kind).rstrip("s")} in ({"string", "integer"}, _LISTS):
                remedy += ': 1 and "1" would be two labels'
            raise LineError(
                f"the label's type is {kind}, where {self.kind} was set by {self.place}", remedy, key=key, code="HF300"
            )
        if self.names:
            self.names.check(label if isinstance(label, list) else [label], key)

    def _check_value(self, labels: list[Any], key: str) -> None:
        if not labels and not self.allow_empty:
            raise LineError("the row has no label", _ALLOW_EMPTY, key=key, code="HF301")
        if any(isinstance(label, str) and not label.strip() for label in labels):
            raise LineError("the label is empty", "name it, or take the row out", key=key, code="HF301")
        twice = next((label for number, label in enumerate(labels) if label in labels[:number]), None)
        if twice is not None:
            raise LineError(f"the label {twice!r} occurs twice", "keep one of them", key=key, code="HF302")


_LISTS = {"list of string", "list of integer"}


def get_label_kind(label: Label) -> LabelKind | None:
    """Name the type of a label; None for a list that mixes strings and integers."""
    if isinstance(label, str):
        return "string"
    if isinstance(label, int):
        return "integer"
    if not label:
        return "empty list"
    types = {type(element) for element in label}
    if len(types) > 1:
        return None
    return "list of strings" if types == {str} else "list of integers"


def find_similar_labels(labels: Mapping[str, tuple[int, str, int]]) -> list[Problem]:
    """Find labels that probably are one, such as "Spam" and "spam": each is compared with the most frequent.

    `labels`: the rows of each label, and path and line of the first.
    """
    groups: dict[str, list[str]] = {}
    for label in labels:
        groups.setdefault(normalize_label(label), []).append(label)
    problems = []
    for group in groups.values():
        most, *others = sorted(group, key=lambda label: (-labels[label][0], label))
        rows, first_path, first_line = labels[most]
        for label in others:
            its_rows, path, line = labels[label]
            how = "are the same number" if _NUMBER.fullmatch(label.strip()) else "differ by case or white space only"
            what = f"the labels {format_value(label)} ({say_count(its_rows, 'row')}, the first here) and "
            what += f"{format_value(most)} ({say_count(rows, 'row')}, the first at {first_path}:{first_line}) {how}"
            problems.append(
                Problem(
                    what, f"did you mean {format_value(most)}? write it in one way", path, line, "label", code="HF303"
                )
            )
    return problems


def normalize_label(label: str) -> str:
    """Normalize a label: case, white space and Unicode composition are dropped, and a number becomes its value."""
    # " New York" and "newyork" are equal, and so are "1", "1.0" and "+01".
    if len(label) <= _LONGEST_NUMBER and _NUMBER.fullmatch(label.strip()):
        return str(Fraction(label.strip()))
    return "".join(unicodedata.normalize("NFC", label).casefold().split())
