"""A table -> a JSONL file, in constant memory, whole or not at all."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any, BinaryIO, get_args

from hf_finetune.config.sections import RowField
from hf_finetune.data.reading.columns import log_columns
from hf_finetune.data.reading.format_detection import check_some_format
from hf_finetune.data.reading.json_line import LineError, format_key, parse_json_object
from hf_finetune.data.reading.lines import LineBlock
from hf_finetune.data.reading.reader import is_blank
from hf_finetune.data.reading.row_lines import RowSettings, iterate_row_blocks
from hf_finetune.errors import MAX_PROBLEMS_SHOWN, CannotWriteError, ConfigError, DataError, Problem, suggest
from hf_finetune.files import open_atomically

COLUMNS, NUMBERS = "--columns", "--numbers"


@dataclass(frozen=True, slots=True)
class RowsOptions:
    columns: Mapping[str, str] = field(default_factory=dict)
    """Field of a row format -> column of the table; a dot enters an object."""
    numbers: tuple[str, ...] = ()
    """Fields of separated values that hold numbers."""
    on_bad_line: str = "fail"
    """`skip` leaves rejected rows out."""
    overwrite: bool = False


@dataclass(slots=True)
class RowsStats:
    """Counts of a converted table: rows + rejected + blank are all that it has."""

    rows: int = 0
    rejected: int = 0
    blank: int = 0
    problems: list[Problem] = field(default_factory=list)
    """The first rejected rows."""

    def as_dict(self) -> dict[str, Any]:
        return asdict(self) | {"problems": [str(problem) for problem in self.problems]}


def convert_rows(source: Path, target: Path, options: RowsOptions) -> RowsStats:
    """Write the rows of a table, of whatever kind it is, to `target` as JSONL, and return the counts.

    Raises ConfigError for options that cannot be, DataError where the file holds no rows, its columns fit no row format
    or, unless they are skipped, rows are rejected, and CannotWriteError; `target` is then as it was.
    """
    check_columns(options.columns)
    _check_files(source, target, overwrite=options.overwrite)
    stats = RowsStats()
    try:
        target.parent.mkdir(parents=True, exist_ok=True)
        with open_atomically(target) as file:
            _write_rows(source, options, file, stats)
            _check_stats(source, options, stats)
    except OSError as problem:
        what, remedy = f"cannot be written ({problem.strerror or problem})", "name a file in a folder with room"
        raise CannotWriteError(Problem(what, remedy, str(target))) from problem
    log_columns(options.columns, str(source))
    return stats


def check_columns(columns: Mapping[str, str]) -> None:
    """Raise ConfigError for a field that no row format has."""
    fields = get_args(RowField)
    problems = [
        Problem(
            f"no row format has a field {format_key(name)}",
            suggest(name, fields, f"the fields are {', '.join(fields)}", show=format_key),
            key=COLUMNS,
        )
        for name in columns
        if name not in fields
    ]
    if problems:
        raise ConfigError(problems)


def _check_files(source: Path, target: Path, *, overwrite: bool) -> None:
    """Raise DataError or ConfigError where there is nothing to read, or where to write is taken."""
    if source.is_dir():
        remedy = "name one of its files; data.train takes a pattern such as folder/*.csv"
        raise DataError(Problem("is a folder, not rows", remedy, str(source)))
    if not source.is_file():
        names = [each.name for each in source.parent.iterdir()] if source.parent.is_dir() else []
        what = "is not a file" if source.exists() else "no such file"
        raise DataError(Problem(what, suggest(source.name, names, "check the path"), str(source)))
    if target.exists() and target.samefile(source):
        raise ConfigError(Problem("is the file to read as well", "name another one", str(target)))
    if target.exists() and not target.is_file():
        raise ConfigError(Problem("is no file", "name one, such as rows.jsonl", str(target)))
    if target.exists() and not overwrite:
        raise ConfigError(Problem("exists already", "name another file, or --overwrite it", str(target)))


def _write_rows(source: Path, options: RowsOptions, file: BinaryIO, stats: RowsStats) -> None:
    shown = str(source)
    settings = RowSettings(columns=options.columns, numbers=options.numbers, by_content=True, columns_key=COLUMNS)
    for block in iterate_row_blocks(source, shown, settings):
        if block.overlong is not None:
            _reject(stats, shown, block.first_line, block.row, LineError("the line is too long", "split it"))
        if block.fault is not None:
            _reject(stats, shown, block.first_line, block.row, block.fault)
        lines = _select_rows(block, shown, stats)
        if lines and not stats.rows:
            _check_first(lines[0], block.line_numbers[0], shown, options)
        stats.rows += len(lines)
        file.writelines(line + b"\n" for line in lines)


def _select_rows(block: LineBlock, shown: str, stats: RowsStats) -> list[bytes]:
    """Return the lines of a block that are rows; the others are counted."""
    lines = []
    for number, line in zip(block.line_numbers, block.lines, strict=True):
        if is_blank(line):
            stats.blank += 1
            continue
        try:
            if block.numbers is None:  # lines of JSONL, which nobody has looked at
                parse_json_object(line)
        except LineError as bad:
            _reject(stats, shown, number, None, bad)
        else:
            lines.append(line.strip())
    return lines


def _reject(stats: RowsStats, shown: str, line: int, row: int | None, bad: LineError) -> None:
    stats.rejected += 1
    if len(stats.problems) < MAX_PROBLEMS_SHOWN:
        key = None if row is None else f"row {row:,}"
        stats.problems.append(Problem(bad.reason, bad.remedy, shown, line, key))


def _check_first(line: bytes, number: int, shown: str, options: RowsOptions) -> None:
    """Raise DataError where the columns fit no row format, or a field of numbers is not among them."""
    first = parse_json_object(line)
    check_some_format(first, shown, number, options.columns, key=COLUMNS)
    missing = [name for name in options.numbers if name not in first]
    if missing:
        listed = ", ".join(map(format_key, first))
        remedy = suggest(missing[0], first, f"the fields are {listed}", show=format_key)
        raise DataError(Problem(f"there is no field {format_key(missing[0])}", remedy, shown, number, NUMBERS))


def _check_stats(source: Path, options: RowsOptions, stats: RowsStats) -> None:
    """Raise DataError where rows are rejected and not to be skipped, or no row is left."""
    if stats.rejected and (options.on_bad_line == "fail" or not stats.rows):
        whole = (
            f"{stats.rejected:,} of {stats.rejected + stats.rows + stats.blank:,} rows are rejected, nothing is written"
        )
        summary = Problem(whole, "correct them, or leave them out: --on-bad-line skip", str(source))
        raise DataError([summary, *stats.problems], total=stats.rejected + 1)
    if not stats.rows:
        raise DataError(Problem("the file has only blank rows", "put rows into it", str(source)))
