"""`data.labels`: the labels of a run, taken from those that the rows have under other names.

{"pos": "POSITIVE", "neg": "NEGATIVE"}   rows of "pos" and "neg" are rows of POSITIVE and NEGATIVE
{"1": "bad", "2": "bad", "5": "good"}    two labels may become one; a whole number is named by its digits

A label that is none of the keys stays as it is where it is one of the values, and is refused otherwise.
"""

from __future__ import annotations

import logging
from collections.abc import Iterable, Mapping, Sequence

from hf_finetune.config.reading.document import format_value
from hf_finetune.data.reading.json_line import LineError
from hf_finetune.data.reading.row_types import Label
from hf_finetune.errors import suggest
from hf_finetune.label_set import LABEL_MAP, format_label_map

logger = logging.getLogger(__name__)


class LabelMap:
    """Renames the labels of rows, and notes which of its keys no row has; one without keys changes nothing."""

    def __init__(self, names: Mapping[str, str]) -> None:
        self.names = dict(names)
        self._known = {**{name: name for name in names.values()}, **names}
        self.seen: set[str] = set()
        """Labels of the rows that were decoded, from which a role's own are taken: see `read_role`."""
        self.found: set[str] = set()
        """Labels of the rows of all roles, whether decoded or from the cache."""

    def __bool__(self) -> bool:
        return bool(self.names)

    def knows_all(self, labels: Iterable[str | int]) -> bool:
        """Whether each label is a key or a value."""
        return all(str(label) in self._known for label in labels)

    def check(self, labels: Sequence[str | int], key: str) -> None:
        """Raise LineError for a label that is neither a key nor a value, with the map that would have it."""
        unknown = next((label for label in labels if str(label) not in self._known), None)
        if unknown is None:
            return
        added = format_label_map({**self.names, str(unknown): str(unknown)})
        meant = suggest(str(unknown), self._known, show=format_value)
        remedy = f"{meant and f'{meant} if not, '}add it under the name that it is to have, such as {added}"
        raise LineError(f"the label {format_value(unknown)} is not in {LABEL_MAP}", remedy, key=key, code="HF304")

    def rename(self, label: Label) -> str | list[str]:
        """Return the label, or labels, of a row under their names in the run, each once."""
        if not isinstance(label, list):
            self.seen.add(str(label))
            return self._known[str(label)]
        self.seen.update(map(str, label))
        return list(dict.fromkeys(self._known[str(each)] for each in label))

    def find_unused(self) -> tuple[str, ...]:
        """Find the keys that no row has, in their order."""
        return tuple(name for name in self.names if name not in self.found)


def log_label_map(names: Mapping[str, str], shown: str) -> None:
    """Say once which labels become which."""
    if names:
        logger.info("%s: labels %s", shown, ", ".join(f"{label} -> {name}" for label, name in names.items()))
