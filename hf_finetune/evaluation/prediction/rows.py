"""Lines of a file -> what a model is given; what it says -> the same lines with fields added.

A line is never re-encoded: the new fields are inserted before its last brace, and all other bytes stay as they are.
"""

from __future__ import annotations

import logging
import re
from collections import defaultdict
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import msgspec
from msgspec import UNSET, Struct

from hf_finetune.data.reading.formats import Columns
from hf_finetune.data.reading.json_line import LineError, format_key, parse_json_object
from hf_finetune.data.reading.lines import LineBlock
from hf_finetune.data.reading.reader import is_blank
from hf_finetune.data.reading.row_decoder import RowDecoder
from hf_finetune.data.reading.row_lines import RowSettings, iterate_row_blocks
from hf_finetune.errors import DataError, Problem
from hf_finetune.shell import shell_path

logger = logging.getLogger(__name__)

WINDOW_ROWS = 4096
WINDOW_BYTES = 8 * 1024**2
MAX_LINE_BYTES = 16 * 1024**2

TAKEN_REMEDY = "give the added fields other names, for example with --prefix predicted_"

# {"text":"..." of a line, its first key and what follows the colon.
_COMPACT = re.compile(rb'\s*\{\s*"(?:[^"\\]|\\.)*"\s*:\S')


@dataclass(frozen=True, slots=True)
class RowKind:
    """What is read of the rows of a file that are given to a model."""

    fields: tuple[str, ...]
    """The first row with one of these decides which of them the others have."""
    make_decoder: Callable[[Mapping[str, Any]], RowDecoder]
    """Make the decoder of rows like one; it takes the `added` fields, too, as `accept_added` has them."""
    added: tuple[str, ...]
    """The names of the fields that a row is given: one that has such a field already is rejected."""
    rows_at_once: int | None = None
    """By default `WINDOW_ROWS`."""


@dataclass(slots=True)
class Window:
    """Consecutive rows of a file: the line, its number and what was read of it, one list each."""

    lines: list[bytes] = field(default_factory=list)
    numbers: list[int] = field(default_factory=list)
    columns: Columns = field(default_factory=lambda: defaultdict(list))
    problems: list[Problem] = field(default_factory=list)
    """One for each line that is left out."""
    taken: Problem | None = None
    """The first problem with a row that already has a field with the name of one to be added."""
    size: int = 0
    """Bytes of all its lines."""

    def is_full(self, rows: int) -> bool:
        return len(self.lines) + len(self.problems) >= rows or self.size >= WINDOW_BYTES


def read_windows(path: Path, shown: str, kind: RowKind, columns: Mapping[str, str] | None = None) -> Iterator[Window]:
    """Yield the rows of a file (`-` is standard input) in order, in at least one window of about `kind.rows_at_once`.

    Blank lines are skipped. Raises `DataError` if the file as a whole holds no rows.
    """
    window, decoder = Window(), None
    for block in iterate_row_blocks(path, shown, RowSettings(MAX_LINE_BYTES, columns or {}, columns_key="--columns")):
        if block.is_blank:
            continue
        if decoder is None and (first := _find_first_row(block.lines, kind)):
            decoder = kind.make_decoder(first)
        elif decoder is None:
            _check_columns(block, shown, kind)
        _add_block(window, block, decoder or kind.make_decoder({kind.fields[0]: ""}), kind, shown)
        if window.is_full(kind.rows_at_once or WINDOW_ROWS):
            yield window
            window = Window()
    yield window


def _find_first_row(lines: Sequence[bytes], kind: RowKind) -> dict[str, Any] | None:
    for line in lines:
        try:
            row = parse_json_object(line)
        except LineError:
            continue
        if not row.keys().isdisjoint(kind.fields):
            return row
    return None


def _check_columns(block: LineBlock, shown: str, kind: RowKind) -> None:
    """Raise DataError where the rows of a table have none of the fields: its columns are those of every row."""
    if block.numbers is None:
        return
    row = next((parse_json_object(line) for line in block.lines if not is_blank(line)), None)
    if row is None:
        return
    what = f"there is no column {_join_fields(kind)}; the columns are {_list_keys(row)}"
    raise DataError(Problem(what, _suggest_column(kind, "COLUMN"), shown, code="HF023"))


def _explain_no_field(line: bytes, kind: RowKind) -> LineError | None:
    """What is wrong with a row that has none of the fields, in place of what its file's first row lets be missed."""
    row = parse_json_object(line)
    if not row.keys().isdisjoint(kind.fields):
        return None
    column = format_key(next(iter(row))).strip("`") if len(row) == 1 else "FIELD"
    what = f"there is no field {_join_fields(kind)}; this row has {_list_keys(row)}"
    return LineError(what, _suggest_column(kind, column), code="HF023")


def _join_fields(kind: RowKind) -> str:
    *others, last = (f"`{name}`" for name in kind.fields)
    return f"{', '.join(others)} or {last}" if others else last


def _list_keys(row: Mapping[str, Any]) -> str:
    return ", ".join(map(format_key, list(row)[:20])) or "none"


def _suggest_column(kind: RowKind, column: str) -> str:
    # Of a chat the field of one question stands for all that ask.
    field = next((name for name in ("prompt", "text") if name in kind.fields), kind.fields[0])
    return f"take it from another: --columns {field}={column}"


def accept_added(row_type: type[Struct], names: Sequence[str]) -> type[Struct]:
    """`row_type` with fields of these names beside its own, with values of any type: `RowKind.added`."""
    fields: list[Any] = [(f"added_{number}", Any, UNSET) for number in range(len(names))]
    renamed = {f"added_{number}": name for number, name in enumerate(names)}
    return msgspec.defstruct(
        row_type.__name__, fields, bases=(row_type,), rename=renamed, forbid_unknown_fields=True, gc=False
    )


def _add_block(window: Window, block: LineBlock, decoder: RowDecoder, kind: RowKind, shown: str) -> None:
    window.size += len(block.data)
    if block.overlong is not None:
        what = f"the line has {block.overlong:,} bytes, more than the limit of {MAX_LINE_BYTES:,}"
        window.problems.append(Problem(what, "split it", shown, block.first_line, code="HF015"))
    if block.fault is not None:
        window.problems.append(
            Problem(block.fault.reason, block.fault.remedy, shown, block.first_line, code=block.fault.code)
        )
    # Fast path: the whole block is decoded at once, which fails if any of its lines does.
    rows = decoder.decode_block(block.data, block.count) if block.count else []
    if rows is None or any(_list_taken(row, decoder, kind) for row in rows):
        rows = _decode_lines(window, block, decoder, kind, shown)
    else:
        window.lines += block.lines
        window.numbers += block.line_numbers
    for name, values in decoder.row_format.columns(rows).items():
        window.columns[name] += values


def _list_taken(row: Any, decoder: RowDecoder, kind: RowKind) -> list[str]:
    return [name for name in kind.added if getattr(row, decoder.attributes[name]) is not UNSET]


def _decode_lines(window: Window, block: LineBlock, decoder: RowDecoder, kind: RowKind, shown: str) -> list[Any]:
    rows = []
    for number, line in zip(block.line_numbers, block.lines, strict=True):
        if is_blank(line):
            continue
        try:
            row = decoder.decode_line(line, f"{shown}:{number}")
        except LineError as failed:
            bad = (_explain_no_field(line, kind) if failed.code == "HF023" else None) or failed
            window.problems.append(Problem(bad.reason, bad.remedy, shown, number, bad.key, code=bad.code))
            continue
        if taken := _list_taken(row, decoder, kind):
            what = f"the row has {' and '.join(map(format_key, taken))} already, which would be added"
            window.problems.append(Problem(what, TAKEN_REMEDY, shown, number, code="HF343"))
            window.taken = window.taken or window.problems[-1]
            continue
        rows.append(row)
        window.lines.append(line)
        window.numbers.append(number)
    return rows


def check_first(window: Window) -> None:
    """Raise `DataError` where the first window of a file says that no row, or none as it is, can be used."""
    if window.taken is not None or (window.problems and not window.lines):
        raise DataError(window.taken or window.problems)


def warn_of_no_rows(first: Window, shown: str) -> None:
    """Say that a file, of which this is the first window, holds no row: what is written of it is empty, too."""
    # No error: of a job that runs every night the file may well be empty.
    if not (first.lines or first.problems):
        place = "standard input" if shown == "-" else shell_path(shown)
        logger.warning("%s holds no rows, and nor does what is written of it", place, extra={"code": "HF344"})


def append_fields(line: bytes, added: str) -> bytes:
    """Insert fields at the end of a line that holds one JSON object of at least one field; ends it with a line feed.

    b'{"text": "hi"}\\r\\n', '"label": "ham"' -> b'{"text": "hi", "label": "ham"}\\n'
    """
    end = line.rindex(b"}")
    comma = b"," if is_compact(line) else b", "
    return b"%b%b%b%b\n" % (line[:end], comma, added.encode(), line[end:])


def is_compact(line: bytes) -> bool:
    """Whether a line that holds a JSON object has no blank behind the colon of its first field."""
    return _COMPACT.match(line) is not None
