"""What values are: text or numbers, few or many; and in which languages."""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from hf_finetune.preflight.detectors.languages import detect_languages

LONGEST_LABEL = 60
FEW = 20
MOST_LABELS = 1_000

Rows = Sequence[Mapping[str, Any]]
# Not what float() takes: that reads "nan", "infinity" and "1_000", too.
_NUMBER = re.compile(r"[+-]?\d{1,15}(?:\.\d{1,15})?(?:[eE][+-]?\d{1,3})?")


@dataclass(frozen=True, slots=True)
class Column:
    """One field of the first rows."""

    name: str
    values: int
    """Rows that have it, with something in it."""
    distinct: int
    longest: int
    mean: float
    """Characters."""
    texts: bool
    """All values are text with a letter in it."""
    numbers: bool
    """All are numbers, or read as such."""
    decimals: bool
    lists: bool

    @property
    def is_label(self) -> bool:
        """Whether each value stands for many rows: few of them, short, and most of them in more than one row."""
        few = self.distinct <= max(2, self.values // 2) and self.distinct <= MOST_LABELS
        return few and not self.lists and self.longest <= LONGEST_LABEL and self.distinct < self.values

    @property
    def is_quantity(self) -> bool:
        """Whether the values are numbers to predict, and not the names of classes."""
        return self.numbers and (self.decimals or (self.distinct > FEW and self.distinct > self.values // 5))


def describe_columns(rows: Rows) -> dict[str, Column]:
    """Describe each field of the first rows, in their order."""
    names = dict.fromkeys(name for row in rows for name in row)
    return {name: _describe(name, [row[name] for row in rows if row.get(name) not in (None, "")]) for name in names}


def _describe(name: str, values: list[Any]) -> Column:
    plain = [value if isinstance(value, str) else repr(value) for value in values]
    lengths = [len(value) for value in plain] or [0]
    read = [_read_number(value) for value in values]
    return Column(
        name=name,
        values=len(values),
        distinct=len(set(plain)),
        longest=max(lengths),
        mean=sum(lengths) / len(lengths),
        texts=bool(values) and all(isinstance(value, str) for value in values) and any(map(_has_letter, plain)),
        numbers=bool(values) and all(number is not None for number in read),
        decimals=any(number is not None and not number.is_integer() for number in read),
        lists=any(isinstance(value, list) for value in values),
    )


def _has_letter(text: str) -> bool:
    return any(character.isalpha() for character in text[:1_000])


def _read_number(value: Any) -> float | None:
    # True is an int in Python.
    if isinstance(value, bool):
        return None
    if isinstance(value, int | float):
        # No number is NaN or infinite, which floats of Parquet may be.
        return float(value) if abs(value) < 1e300 else None
    return float(value) if isinstance(value, str) and _NUMBER.fullmatch(value.strip()) else None


def find_languages(texts: Iterable[str]) -> dict[str, float]:
    """The share of each language among the texts that can be told, the most frequent first."""
    return detect_languages(texts).shares
