"""Separated values -> rows, in constant memory: encoding and delimiter are found, every row keeps its line.

Python's csv and not pyarrow's, which is faster and names neither the row nor the line of what it refuses. It reads in
its strict mode: a text behind a closing quote is an error, and not silently joined.
"""

from __future__ import annotations

import csv
import io
import re
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import get_args

from hf_finetune.config.sections import RowField
from hf_finetune.data.reading.file_kinds import get_ending
from hf_finetune.data.reading.json_line import MAX_KEYS, LineError, explain_width, format_key
from hf_finetune.data.reading.tables.encodings import SURROGATES, Chunks, Encoding, detect_encoding, open_text
from hf_finetune.data.reading.tables.rows import Table, TableRow
from hf_finetune.errors import DataError, Problem
from hf_finetune.metric_info import say_count

DELIMITERS = {",": "comma", ";": "semicolon", "\t": "tab", "|": "pipe"}
SAMPLE_ROWS = 20
SAMPLE_CHARACTERS = 64 * 1024
_LONGEST_NAME = 100


_STATED = re.compile(f'\ufeff?"?sep=(?P<delimiter>[{"".join(DELIMITERS)}])"?(?:\r\n|\r|\n)', re.IGNORECASE)
# What a column is called as a rule: a first line of one title is told from a header by it.
_USUAL = frozenset(get_args(RowField))


_DELETE = "the first line names the columns: delete a title above them"
_NO_BLANK = "take away the blank between the delimiter and the quote: a quote has to begin its field"


@dataclass(frozen=True, slots=True)
class _Checks:
    """What is looked for in the rows of one file, besides the number of their fields."""

    first: str
    """The name of the first column, casefolded."""
    damaged: bool
    """Some bytes are of another encoding."""
    blanks: bool
    """Blanks stand between a delimiter and a quote."""


class _TooLong(Exception):
    """A row has more characters than the limit."""


class _Lines:
    """The lines of a text, line ends kept; counts them, and stops where one row takes more than `limit` characters."""

    def __init__(self, stream: io.TextIOWrapper, limit: int) -> None:
        self._stream = stream
        self._limit = limit
        self.number = 0
        self.held = 0
        """Characters of the row so far; its reader sets 0 where a row begins."""
        self._cut = False
        """The line before was cut behind its carriage return."""

    def __iter__(self) -> Iterator[str]:
        return self

    def __next__(self) -> str:
        line = self._stream.readline(self._limit + 1)
        # csv asks for line after line while a quote is open: without the limit, one that is never closed takes the
        # whole file.
        if self._cut and line == "\n":  # the other half of a line end, and no blank row
            line = self._stream.readline(self._limit + 1)
        self._cut = False
        if not line:
            raise StopIteration
        self.number += 1
        self.held += len(line)
        if self.held > self._limit:
            while line and line[-1] not in "\r\n":
                line = self._stream.readline(self._limit)
            self._cut = line.endswith("\r")
            raise _TooLong
        return line


def open_csv(chunks: Chunks, shown: str, limit: int) -> Table:
    """Open a table of separated values; `chunks` gives its decompressed bytes from the start, each time it is called.

    `limit`: the most characters of a row. Raises DataError where the header cannot be read, or no row follows it.
    """
    encoding = detect_encoding(chunks(), shown)
    # csv refuses fields above a limit of the whole process, 131,072 characters at first; ours is that of the row.
    csv.field_size_limit(max(csv.field_size_limit(), limit))
    sample, whole = _read_sample(chunks, encoding, shown)
    # Excel writes, and reads, the delimiter in a line of its own above the header: "sep=;".
    stated = _STATED.match(sample)
    sample = sample[stated.end() :] if stated else sample
    delimiter = stated["delimiter"] if stated else _detect_delimiter(sample, shown)
    _check_header_width(sample, whole, delimiter, shown, 2 if stated else 1)
    lines = _Lines(open_text(chunks, encoding), limit)
    if stated:
        next(lines)
    reader = csv.reader(lines, delimiter=delimiter, strict=True)
    rows = _read_records(reader, lines, shown)
    header_line, header = _read_header(rows, shown)
    names = _check_names(header, shown, header_line)
    notes = [encoding.note] if encoding.note else []
    if stated or delimiter != ("\t" if get_ending(shown) == ".tsv" else ","):
        said = ", as its first line says" if stated else ""
        notes.append(f"columns are separated by a {DELIMITERS[delimiter]}{said}")
    unnamed = len(header) - len(names)
    if unnamed:
        notes.append(
            f"{unnamed} columns without a name are left out" if unnamed > 1 else "a column without a name is left out"
        )
    # `"a", "b"`: where the delimiter is followed by a blank, the second quote is text to a strict reader.
    blanks = re.search(rf'{re.escape(delimiter)}[ \t]+"(?!")', sample) is not None
    checks = _Checks(header[0].casefold(), encoding.damaged, blanks)
    found = _build_rows(rows, header, shown, header_line, checks)
    return Table(dict.fromkeys(names), found, tuple(notes), header_line)


def _read_sample(chunks: Chunks, encoding: Encoding, shown: str) -> tuple[str, bool]:
    """Read the beginning of the text, and whether it is the whole."""
    try:
        with open_text(chunks, encoding) as head:
            return head.read(SAMPLE_CHARACTERS), not head.read(1)
    except UnicodeDecodeError:
        what = f"the file is marked as {encoding.name.upper()} and is damaged or cut off"
        raise DataError(Problem(what, "copy it again", shown, code="HF004")) from None


def _parse_sample(sample: str, delimiter: str) -> list[list[str]]:
    """Parse the first rows of a sample leniently, blank ones left out."""
    rows: list[list[str]] = []
    try:
        # Not strict: the sample may end inside a quote, and a strict reader would raise there.
        for row in csv.reader(io.StringIO(sample, newline=""), delimiter=delimiter):
            if any(row):
                rows.append(row)
            if len(rows) > SAMPLE_ROWS:
                break
    except csv.Error:
        pass
    return rows


def _detect_delimiter(sample: str, shown: str) -> str:
    """Choose the delimiter that gives the most rows the width of the first, above one column."""
    # "a;b\n1,5;2\n" has 2 columns by semicolon in both rows; by comma the header has 1.
    found: list[tuple[float, int, str]] = []
    for delimiter in DELIMITERS:
        rows = _parse_sample(sample, delimiter)
        if rows and len(rows[0]) > 1:
            same = sum(len(row) == len(rows[0]) for row in rows) / len(rows)
            found.append((same, len(rows[0]), delimiter))
    if not found:
        return _detect_below(sample) or ("\t" if get_ending(shown) == ".tsv" else ",")
    return max(found, key=lambda each: each[:2])[2]


def _detect_below(sample: str) -> str | None:
    """Choose the delimiter of the rows below a first line of one column, which may be a title."""
    for delimiter in DELIMITERS:
        # One row decides nothing: in "text\nHello; you\nBye\n" a semicolon stands in a text of the only column.
        below = _parse_sample(sample, delimiter)[1:-1]
        widths = set(map(len, below))
        if len(below) > 1 and len(widths) == 1 and widths != {1}:
            return delimiter
    return None


def _check_header_width(sample: str, whole: bool, delimiter: str, shown: str, line: int) -> None:
    """Raise DataError where the first line, which is `line`, is no header: a title, or of another width than all rows.

    What stands between two rows is not looked at here.
    """
    rows = _parse_sample(sample, delimiter)
    below = rows[1:] if whole else rows[1:-1]
    widths = Counter(map(len, below))
    if rows and _is_padded_title(rows):
        what = "the first line is a title, and the names of the columns stand below it"
        raise DataError(Problem(what, "delete it", shown, line, code="HF060"))
    if len(below) > 1 and len(widths) == 1 and len(rows[0]) not in widths:
        own, others = len(rows[0]), next(iter(widths))
        what = f"the first line has {say_count(own, 'column')}, and those below it {others}"
        raise DataError(Problem(what, _advise_width(own, below), shown, line, code="HF060"))


def _is_padded_title(rows: list[list[str]]) -> bool:
    """True of "Report 2024,," above "text,label,id", as spreadsheets write it; False of a column without a name."""
    first, *below = rows
    if len(below) < 2 or len(first) < 2 or not first[0].strip() or any(first[1:]):
        return False
    names = {name.strip().casefold() for name in below[0]}
    return first[0].strip().casefold() not in _USUAL and all(below[0]) and bool(names & _USUAL)


def _advise_width(own: int, below: list[list[str]]) -> str:
    """The remedy where the first line has `own` columns, and all of the rows `below` it another number."""
    if own == 1:
        return _DELETE
    if len(below[0]) < own:
        return "is a column of the rows missing, or is their delimiter another one?"
    if not any(any(row[own:]) for row in below):
        return "the rows end in a delimiter: take it away, or put it behind the first line as well"
    if any(cell.lstrip().startswith("'") for row in below for cell in row):
        return "a text that holds the delimiter is put in double quotes, not in single ones"
    if any(_opens_behind_blank(cell) for row in below for cell in row):
        return _NO_BLANK
    return "put quotes around a text that holds the delimiter, or name every column"


def _opens_behind_blank(cell: str) -> bool:
    """True of ` "b`, which is a piece of `"a", "b, c"`: a quote opens a field only where it begins it."""
    return cell[:1] in {" ", "\t"} and cell.lstrip(" \t")[:1] == '"'


def _read_records(
    reader: Iterator[list[str]], lines: _Lines, shown: str
) -> Iterator[tuple[int, list[str] | LineError]]:
    """Yield the records and the line that each begins on; raises DataError for a quote that is never closed."""
    while True:
        begins, lines.held = lines.number + 1, 0
        try:
            record = next(reader)
        except StopIteration:
            return
        except _TooLong:
            if lines.number > begins:
                raise DataError(_explain_open_quote(shown, begins, lines.number)) from None
            what, remedy = "the row is longer than the limit", "split it, or raise data.max_line_bytes"
            yield begins, LineError(what, remedy, code="HF015")
        except csv.Error as error:
            if "unexpected end of data" in str(error):
                raise DataError(_explain_open_quote(shown, begins, lines.number)) from None
            # What else csv refuses, `_Lines` and the limit of its fields leave no room for.
            yield (
                begins,
                LineError("text follows a closing quote", 'write a quote inside quotes twice: ""', code="HF062"),
            )
        except UnicodeDecodeError:
            what = f"the text of the file is damaged or cut off behind line {lines.number}"
            raise DataError(Problem(what, "copy it again", shown, lines.number, code="HF004")) from None
        else:
            yield begins, record


def _explain_open_quote(shown: str, begins: int, ends: int) -> Problem:
    what = f"a quote that opens in the row of this line is not closed by line {ends:,}"
    return Problem(what, 'close it; a quote inside quotes is written twice: ""', shown, begins, code="HF062")


def _read_header(rows: Iterator[tuple[int, list[str] | LineError]], shown: str) -> tuple[int, list[str]]:
    for line, record in rows:
        if isinstance(record, LineError):
            raise DataError(
                Problem(f"the header is broken: {record.reason}", record.remedy, shown, line, code=record.code)
            )
        if any(record):
            # Two files that were joined by a tool may have two byte order marks.
            return line, [name.lstrip("\ufeff").strip() for name in record]
    raise DataError(Problem("the file is empty", "put rows into it, or leave it out", shown, code="HF007"))


def _check_names(header: Sequence[str], shown: str, line: int) -> list[str]:
    """Return the names of the columns that have one; raises DataError where one occurs twice."""
    names = [name for name in header if name.strip()]
    if len(header) > MAX_KEYS:
        raise DataError(Problem(*explain_width(len(header), "columns"), shown, line, code="HF014"))
    if any("\0" in name or SURROGATES.search(name) for name in names):
        raise DataError(
            Problem("the header has bytes that are no text", "write the file again as UTF-8", shown, line, code="HF003")
        )
    problems = [
        Problem(f"the column {format_key(name)} occurs {count} times", "rename all but one", shown, line, code="HF061")
        for name, count in Counter(names).items()
        if count > 1
    ]
    if problems:
        raise DataError(problems)
    return names


def _build_rows(
    records: Iterator[tuple[int, list[str] | LineError]],
    header: list[str],
    shown: str,
    header_line: int,
    checks: _Checks,
) -> Iterator[TableRow]:
    """Yield the rows below the header; a row of empty fields, which spreadsheets write, is blank."""
    number = 0
    named = [place for place, name in enumerate(header) if name.strip()]
    every = len(named) == len(header)
    for line, record in records:
        number += 1
        if isinstance(record, LineError):
            yield TableRow(number, line, None, record)
        elif not any(record):
            yield TableRow(number, line, None)
        elif (fault := _find_fault(record, header, checks)) is not None:
            yield TableRow(number, line, None, fault)
        elif every:
            yield TableRow(number, line, dict(zip(header, record, strict=True)))
        else:
            yield TableRow(number, line, {header[place]: record[place] for place in named})
    if not number:
        names = ", ".join(format_key(header[place]) for place in named)
        what = f"there is a header ({names}) and no row below it"
        raise DataError(Problem(what, "put rows into it, or leave it out", shown, header_line, code="HF007"))


def _find_fault(record: list[str], header: list[str], checks: _Checks) -> LineError | None:
    """Find why a record is no row."""
    if len(record) != len(header):
        fields = say_count(len(record), "field")
        return LineError(
            f"the row has {fields}, the header {len(header)}", _advise_fields(record, len(header)), code="HF063"
        )
    # Joined files may write their headers in other ways: "Text,Label" below "text,label".
    if len(record[0]) < _LONGEST_NAME and record[0].strip().casefold() == checks.first and _repeats(record, header):
        return LineError("the row repeats the header", "take it out; were two files joined?", code="HF064")
    joined = "".join(record)
    if checks.blanks and any(_opens_behind_blank(cell) and cell.rstrip()[-1:] == '"' for cell in record):
        return LineError("a blank stands before a quote, which then is text", _NO_BLANK, code="HF062")
    if "\0" in joined:
        return LineError("the row has NUL bytes", "the file is damaged: write it again", code="HF016")
    if checks.damaged and SURROGATES.search(joined):
        return LineError("a byte of the row is not UTF-8", "write the file again in one encoding", code="HF003")
    return None


def _repeats(record: list[str], header: list[str]) -> bool:
    # In a table of one column `Text` below `text` may be a text.
    return record == header or (
        len(record) > 1 and [cell.strip().casefold() for cell in record] == [name.casefold() for name in header]
    )


def _advise_fields(record: list[str], width: int) -> str:
    """The remedy for a row with more or fewer fields than the `width` of the header."""
    if len(record) < width:
        return "is a field or a quote missing?"
    if any(map(_opens_behind_blank, record)):
        return _NO_BLANK
    if not any(record[width:]):
        return "take away the delimiter at its end"
    return "put quotes around a field that holds the delimiter"
