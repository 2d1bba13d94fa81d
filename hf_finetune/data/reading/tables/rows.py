"""What the readers of tables give: rows one at a time, each with its number and its line."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any

from hf_finetune.data.reading.json_line import LineError


@dataclass(frozen=True, slots=True)
class TableRow:
    """One row of a table; the values are None where it is blank or no row, and `fault` says why."""

    number: int
    """Counted from 1, the header of a CSV left out."""
    line: int
    """The line that it begins on; of a table without lines, its number."""
    values: dict[str, Any] | None
    """Of a JSON array, msgspec's Raw: the text of each value."""
    fault: LineError | None = None


@dataclass(frozen=True, slots=True)
class Table:
    """A table that was opened: its rows can be read once."""

    names: Mapping[str, Any] | None
    """The columns: None, or of objects what is inside, such as {"id": None, "answer": {"text": None}}.

    None instead of all where each row has its own keys."""
    rows: Iterator[TableRow]
    notes: tuple[str, ...] = ()
    """What is not as usual about it: the encoding, the delimiter, what is left out."""
    header_line: int | None = None
    """None where rows are named by their number: without lines, or with all rows in one, as JSON arrays may have."""

    def get_place(self, row: TableRow) -> int:
        """Return what messages call a row: its line, or its number."""
        return row.number if self.header_line is None else row.line
