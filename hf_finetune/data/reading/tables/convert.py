"""A table -> a JSONL file, in constant memory, whole or not at all."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any, BinaryIO, get_args

import msgspec
from msgspec import Raw

from hf_finetune.config.sections import RowField
from hf_finetune.data.reading.columns import log_columns, suggest_inside
from hf_finetune.data.reading.file_kinds import check_rows_name
from hf_finetune.data.reading.format_detection import choose_row_checks
from hf_finetune.data.reading.json_line import (
    LineError,
    explain_no_number,
    format_key,
    name_json_type,
    parse_json_object,
)
from hf_finetune.data.reading.lines import STANDARD_INPUT, LineBlock
from hf_finetune.data.reading.reader import is_blank
from hf_finetune.data.reading.row_lines import RowSettings, iterate_row_blocks
from hf_finetune.errors import MAX_PROBLEMS_SHOWN, CannotWriteError, ConfigError, DataError, Problem, suggest
from hf_finetune.files import explain_unwritable, make_parents, open_rows_atomically
from hf_finetune.folders import check_new_file
from hf_finetune.metric_info import choose_verb, say_count

COLUMNS, NUMBERS = "--columns", "--numbers"
_STREAMS = ("/dev/stdin", "/dev/stdout", "/dev/fd/0", "/dev/fd/1")
_NUMBER_STARTS = tuple(b"%c" % byte for byte in b"-0123456789")


@dataclass(frozen=True, slots=True)
class RowsOptions:
    columns: Mapping[str, str] = field(default_factory=dict)
    """Field of a row format -> column of the table; a dot enters an object."""
    numbers: tuple[str, ...] = ()
    """Fields that hold numbers: cells of text are read as such, and a row in which one is none is rejected."""
    on_bad_line: str = "fail"
    """`skip` leaves rejected rows out."""
    allow_empty: bool = False
    """Take rows whose text, answer or label is empty, as `data.allow_empty` does."""
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
        with make_parents(target), open_rows_atomically(target) as file:
            _write_rows(source, options, file, stats)
            _check_stats(source, options, stats)
    except OSError as problem:
        raise CannotWriteError(explain_unwritable(target, problem, "name a file in a folder of yours")) from problem
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
            code="HF029",
        )
        for name in columns
        if name not in fields
    ]
    if problems:
        raise ConfigError(problems)


def _check_files(source: Path, target: Path, *, overwrite: bool) -> None:
    """Raise DataError or ConfigError where there is nothing to read, or where to write is taken."""
    for path, what in ((source, "standard input is not read"), (target, "standard output is not written")):
        if path == STANDARD_INPUT or str(path) in _STREAMS:
            raise ConfigError(
                Problem(what, "name a file: the rows are there whole, or not at all", str(path), code="HF067")
            )
        try:
            path.exists()
        except OSError as problem:
            raise ConfigError(
                Problem(f"is no path ({problem.strerror})", "name another", str(path)[:100], code="HF626")
            ) from problem
    if source.is_dir():
        remedy = "name one of its files; data.train takes a pattern such as folder/*.csv"
        raise DataError(Problem("is a folder, not rows", remedy, str(source), code="HF002"))
    if not source.is_file():
        others = source.parent.iterdir() if source.parent.is_dir() else ()
        names = [each.name for each in others if each.name != source.name]
        what = "is not a file" if source.exists() else "no such file"
        what = "is a link that leads to nothing" if source.is_symlink() and not source.exists() else what
        remedy, code = suggest(source.name, names, "check the path"), "HF002" if source.exists() else "HF001"
        raise DataError(Problem(what, remedy, str(source), code=code))
    if target.exists() and target.samefile(source):
        raise ConfigError(Problem("is the file to read as well", "name another one", str(target), code="HF707"))
    check_new_file(target, overwrite=overwrite, example="rows.jsonl")
    check_rows_name(str(target))


def _write_rows(source: Path, options: RowsOptions, file: BinaryIO, stats: RowsStats) -> None:
    shown = str(source)
    settings = RowSettings(columns=options.columns, numbers=options.numbers, by_content=True, columns_key=COLUMNS)
    find_fault: Callable[[bytes, int], LineError | None] | None = None
    for block in iterate_row_blocks(source, shown, settings):
        if block.overlong is not None:
            _reject(
                stats, shown, block.first_line, block.row, LineError("the line is too long", "split it", code="HF015")
            )
        if block.fault is not None:
            _reject(stats, shown, block.first_line, block.row, block.fault)
        for number, line in _select_rows(block, shown, stats):
            if find_fault is None:
                find_fault = _choose_checks(line, number, shown, options)
            if (bad := find_fault(line, number)) is not None:
                _reject(stats, shown, number, None, bad)
                continue
            stats.rows += 1
            file.write(line + b"\n")


def _select_rows(block: LineBlock, shown: str, stats: RowsStats) -> Iterator[tuple[int, bytes]]:
    """Yield the lines of a block that are rows, each with its number; the others are counted."""
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
            yield number, line.strip()


def _find_no_text(line: bytes, fields: frozenset[str], columns: Mapping[str, str]) -> LineError | None:
    """Find a field of text that is null, an object or a list: no run would take the row."""
    row = msgspec.json.decode(line, type=dict[str, Raw])
    for name in sorted(fields & row.keys()):
        start = bytes(row[name])[:1]  # decides the type of a JSON value
        if start == b"n":
            return LineError(f"`{name}` is null", "fill it in, or leave such rows out", key=name, code="HF028")
        if start == b"{" or (start == b"[" and name != "output"):  # of several labels, `output` is a list
            value = msgspec.json.decode(row[name])
            what = f"`{name}` must be a text, found {name_json_type(value)}"
            return LineError(
                what, suggest_inside(name, columns.get(name, name), value, COLUMNS), key=name, code="HF026"
            )
    return None


def _find_no_number(line: bytes, names: Sequence[str]) -> LineError | None:
    """Find a field of `names` that is missing, or no number."""
    row = msgspec.json.decode(line, type=dict[str, Raw]) if names else {}
    for name in names:
        if name not in row:
            return LineError(
                f"there is no field {format_key(name)}", "write it, or take the row out", key=name, code="HF023"
            )
        if bytes(row[name])[:1] not in _NUMBER_STARTS:
            return explain_no_number(name, msgspec.json.decode(row[name]))
    return None


def _reject(stats: RowsStats, shown: str, line: int, row: int | None, bad: LineError) -> None:
    stats.rejected += 1
    if len(stats.problems) < MAX_PROBLEMS_SHOWN:
        key = bad.key if row is None else f"row {row:,}"
        stats.problems.append(Problem(bad.reason, bad.remedy, shown, line, key, code=bad.code))


def _choose_checks(
    line: bytes, number: int, shown: str, options: RowsOptions
) -> Callable[[bytes, int], LineError | None]:
    """Return what finds the fault of a row, the one that would have a run refuse it.

    Raises DataError where the columns fit no row format, or a field of numbers is not among them.
    """
    first = parse_json_object(line)
    empty = options.allow_empty
    fields, decoder = choose_row_checks(
        first, shown, number, options.columns, key=COLUMNS, allow_empty=empty, numbers=options.numbers
    )
    missing = [name for name in options.numbers if name not in first]
    if missing:
        listed = ", ".join(map(format_key, first))
        remedy = suggest(missing[0], first, f"the fields are {listed}", show=format_key)
        raise DataError(
            Problem(f"there is no field {format_key(missing[0])}", remedy, shown, number, NUMBERS, code="HF024")
        )

    def find_wrong_kind(line: bytes) -> LineError | None:
        bad = _find_no_text(line, fields - {*options.numbers}, options.columns)
        return bad or _find_no_number(line, options.numbers)

    def find_fault(line: bytes, number: int) -> LineError | None:
        if decoder is None:
            return find_wrong_kind(line)
        try:
            decoder.decode_line(line, f"{shown}:{number}")
        except LineError as fault:
            return find_wrong_kind(line) or fault
        return _find_no_number(line, options.numbers)

    return find_fault


def _check_stats(source: Path, options: RowsOptions, stats: RowsStats) -> None:
    """Raise DataError where rows are rejected and not to be skipped, or no row is left."""
    if stats.rejected and (options.on_bad_line == "fail" or not stats.rows):
        whole = (
            f"{stats.rejected:,} of {say_count(stats.rejected + stats.rows + stats.blank, 'row')} "
            f"{choose_verb(stats.rejected, 'is', 'are')} rejected, nothing is written"
        )
        summary = Problem(whole, "correct them, or leave them out: --on-bad-line skip", str(source), code="HF053")
        raise DataError(stats.problems, total=stats.rejected, summary=summary)
    if not stats.rows:
        raise DataError(Problem("the file has only blank rows", "put rows into it", str(source), code="HF007"))
