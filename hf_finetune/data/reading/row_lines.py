"""A file of rows, however they are laid out -> blocks of JSON lines: the one way in which rows are read.

A table becomes lines that a JSONL file could have, in constant memory; each keeps the number of its row or line in the
file. So JSONL stays the form that everything is checked in, and a message names the file that the user has.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass, field, replace
from functools import partial
from itertools import chain
from pathlib import Path
from typing import Any

import msgspec

from hf_finetune.data.reading.columns import ColumnMapper, explain_pair
from hf_finetune.data.reading.file_kinds import Layout, check_pretty_printed, choose_layout
from hf_finetune.data.reading.json_line import LineError
from hf_finetune.data.reading.lines import (
    STANDARD_INPUT,
    ByteSource,
    LineBlock,
    ReadPlace,
    check_text,
    decompress,
    explain_compression,
    is_compressed,
    iterate_line_blocks,
)
from hf_finetune.data.reading.tables.rows import Table, TableRow
from hf_finetune.errors import ConfigError, DataError, Problem

logger = logging.getLogger(__name__)

DEFAULT_MAX_LINE_BYTES = 16 * 1024**2
HEAD_BYTES = 64 * 1024
BLOCK_ROWS = 1_000
BLOCK_BYTES = 256 * 1024
# Cells of separated values are text; of these fields a cell may hold JSON, as tables of conversations do.
_JSON_FIELDS = ("messages", "conversations", "tools", "label")


@dataclass(frozen=True, slots=True)
class RowSettings:
    """How the rows of a file are read."""

    max_line_bytes: int = DEFAULT_MAX_LINE_BYTES
    columns: Mapping[str, str] = field(default_factory=dict)
    """Field of a row format -> column of the user's rows."""
    numbers: tuple[str, ...] = ()
    """Fields of separated values that hold numbers and not text."""
    by_content: bool = False
    """Trust the bytes of a file where its name says otherwise."""
    columns_key: str = "data.columns"
    """What messages call `columns`."""
    quiet: bool = False
    """Say nothing in the log about the file: it is read more than once."""


def iterate_row_blocks(
    path: ByteSource,
    shown: str,
    settings: RowSettings,
    place: ReadPlace | None = None,
    note: Callable[[str], None] | None = None,
) -> Iterator[LineBlock]:
    """Yield the rows of a file as blocks of JSON lines, numbered by their line in it, from `place` on.

    Rows of Parquet, Arrow and JSON arrays are numbered by their row: they have no lines, or one for all. `note` takes
    what is not as usual about the file, which otherwise, unless `settings` are quiet, goes to the log. Raises DataError
    where the file as a whole holds no rows; a row of a table that is none is a block with its fault.
    """
    note = note or partial(log_note, shown)
    layout, chunks = _find_layout(path, shown, settings, place)
    if not settings.quiet and (compressed := explain_compression(path, shown)) is not None:
        note(compressed)
    if (pair := explain_pair(settings.columns, settings.columns_key)) is not None:
        raise ConfigError(pair)
    mapper = ColumnMapper(settings.columns, shown, settings.columns_key, quiet=settings.quiet)
    if layout == "jsonl":
        first = 1 if place is None else place.line
        blocks = iterate_line_blocks(_check_lines(chunks, shown), settings.max_line_bytes, first)
        if place is not None:
            blocks = place.watch(blocks)
        if settings.columns:
            blocks = (_map_block(block, mapper) for block in blocks)
        yield from blocks
    else:
        if place is not None:
            place.seeks = False
        table = _open_table(path, shown, layout, chunks, settings)
        if table.names is not None:
            mapper.check_names(table.names, table.header_line)
        for each in table.notes if not settings.quiet else ():
            note(each)
        yield from _iterate_table_blocks(table, mapper, settings)
    mapper.check_seen()


def log_note(shown: str, note: str) -> None:
    """Log what is not as usual about a file."""
    logger.info("%s: %s", shown, note)


def _find_layout(
    path: ByteSource, shown: str, settings: RowSettings, place: ReadPlace | None
) -> tuple[Layout, Iterator[bytes]]:
    """Return the layout of a file, and its bytes from `place` on."""
    chunks = decompress(path, shown, place)
    if place is not None and place.byte:  # inside of a file of lines
        return "jsonl", chunks
    streamed = path == STANDARD_INPUT
    first: list[bytes] = []
    for chunk in chunks:
        first.append(chunk)
        # Of a pipe the first chunk alone: whoever types the rows may send the second one in a minute.
        if streamed or sum(map(len, first)) >= HEAD_BYTES:
            break
    head = b"".join(first)
    layout = choose_layout(head, shown, by_content=settings.by_content, streamed=streamed)
    if streamed and layout not in {"jsonl", "json"}:
        raise DataError(Problem("a table cannot be read from standard input", "name the file", shown, code="HF067"))
    return layout, chain(first, chunks)


def _check_lines(chunks: Iterator[bytes], shown: str) -> Iterator[bytes]:
    for number, chunk in enumerate(check_text(chunks, shown)):
        if number == 0:
            check_pretty_printed(chunk, shown)
        yield chunk


def _open_table(path: ByteSource, shown: str, layout: Layout, chunks: Iterator[bytes], settings: RowSettings) -> Table:
    limit = settings.max_line_bytes
    if layout == "csv":
        from hf_finetune.data.reading.tables.csv_rows import open_csv

        return open_csv(lambda: decompress(path, shown), shown, limit)
    if layout == "json":
        from hf_finetune.data.reading.tables.json_array import open_json_array

        return open_json_array(check_text(chunks, shown), shown, limit)
    if is_compressed(path):
        # Their columns are at places of the file, and Parquet is compressed inside: nothing is gained.
        what = f"the {layout.capitalize()} file is compressed as a whole, and it is read at many places"
        raise DataError(Problem(what, f"decompress it, and name {shown.rpartition('.')[0]}", shown, code="HF067"))
    from hf_finetune.data.reading.tables.arrow_rows import open_arrow, open_parquet

    if layout == "parquet":
        return open_parquet(path if isinstance(path, Path) else path.open("rb"), shown)
    if not isinstance(path, Path):
        raise DataError(
            Problem("an Arrow file is read on this machine alone", "write it as JSONL or Parquet", shown, code="HF067")
        )
    return open_arrow(path, shown)


def _map_block(block: LineBlock, mapper: ColumnMapper) -> LineBlock:
    lines = [
        mapper.map_line(line, number) if line.strip() else line
        for number, line in zip(block.line_numbers, block.lines, strict=True)
    ]
    return replace(block, data=b"\n".join(lines))


def _iterate_table_blocks(table: Table, mapper: ColumnMapper, settings: RowSettings) -> Iterator[LineBlock]:
    """Yield the JSON lines of a table's rows, some at a time; a blank row is a blank line."""
    numbers: list[int] = []
    lines: list[bytes] = []
    size = 0
    for row in table.rows:
        line, fault = _encode_row(row, mapper, settings, typed=table.names is None)
        full = len(lines) >= BLOCK_ROWS or size >= BLOCK_BYTES
        # A fault is a block of its own, behind the rows before it: what is said of a file is said in its order.
        if lines and (fault is not None or full):
            yield LineBlock(numbers[0], b"\n".join(lines), len(lines), numbers=numbers)
            numbers, lines, size = [], [], 0
        if fault is not None:
            yield LineBlock(table.get_place(row), b"", 0, fault=fault, row=row.number)
            continue
        numbers.append(table.get_place(row))
        lines.append(line)
        size += len(line)
    if lines:
        yield LineBlock(numbers[0], b"\n".join(lines), len(lines), numbers=numbers)


def _encode_row(
    row: TableRow, mapper: ColumnMapper, settings: RowSettings, *, typed: bool
) -> tuple[bytes, LineError | None]:
    """Encode a row as a JSON line, b"" for a blank one; or the reason why it is none."""
    if row.fault is not None or row.values is None:
        return b"", row.fault
    values = mapper.map_row(row.values, row.number) if settings.columns else row.values
    if not typed:
        values = _convert_cells(values, settings.numbers)
    line = msgspec.json.encode(values)
    if len(line) > settings.max_line_bytes:
        what = f"the row has {len(line):,} bytes, more than the limit of {settings.max_line_bytes:,}"
        return b"", LineError(what, "split it, or raise data.max_line_bytes", code="HF015")
    return line, None


def _convert_cells(values: Mapping[str, Any], numbers: Iterable[str]) -> dict[str, Any]:
    """Convert the cells of a row that are not text: JSON in the fields of lists, numbers where they are asked for."""
    cells = dict(values)
    for name in _JSON_FIELDS:
        cell = cells.get(name)
        # '[{"role": "user", ...}]' is a list in a cell; "[1] See below." and "[sic]" stay text, as they are no JSON.
        if isinstance(cell, str) and cell[:1] == "[" and cell[-1:] == "]":
            cells[name] = _parse_cell(cell, list)
    for name in numbers:
        cell = cells.get(name)
        if isinstance(cell, str):
            cells[name] = _parse_cell(cell.strip(), int | float)
    return cells


def _parse_cell(cell: str, kind: Any) -> Any:
    try:
        return msgspec.json.decode(cell, type=kind)
    except (msgspec.DecodeError, UnicodeEncodeError, RecursionError):
        return cell  # the decoder of rows says what it should have been
