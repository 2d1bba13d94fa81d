"""One JSON array -> its elements one at a time: no more than one of them is in memory."""

from __future__ import annotations

import re
from collections.abc import Iterator

import msgspec
from msgspec import Raw

from hf_finetune.data.reading.json_line import LineError, parse_json_object
from hf_finetune.data.reading.tables.rows import Table, TableRow
from hf_finetune.errors import DataError, Problem

# What lies between two of these marks is passed over by `re`, and not byte by byte in Python.
_IN_STRING = re.compile(rb'["\\]')
_SPACE = re.compile(rb"[ \t\r\n]*")
_OUTSIDE = re.compile(rb'["\[\]{},]')


class _Scanner:
    """Finds the ends of an array's elements in chunks of bytes; brackets inside strings do not count."""

    # b'[{"a": "]"}, {"b": [1,' and b'2]}]' give the elements b'{"a": "]"}' and b' {"b": [1,2]}'.

    def __init__(self, chunks: Iterator[bytes], shown: str, limit: int) -> None:
        self._chunks, self._shown, self._limit = chunks, shown, limit
        self._text = b""
        self._begin = 0
        """Where in `_text` the element begins, or what is between elements."""
        self._place = 0
        """How far `_text` has been looked at."""
        self._line = 1
        """The line of `_begin`."""
        self._dropped = 0
        """Bytes of the element that were not kept, since it is above the limit."""

    def _fill(self) -> bool:
        """Take one more chunk, and let go of what is behind or above the limit; False at the end of the file."""
        chunk = next(self._chunks, b"")
        if self._dropped or len(self._text) - self._begin > self._limit:
            self._dropped += len(self._text) - self._begin
            self._advance(len(self._text))
        self._place -= self._begin
        self._text, self._begin = self._text[self._begin :] + chunk, 0
        return bool(chunk)

    def _advance(self, place: int) -> None:
        self._line += self._text.count(b"\n", self._begin, place)
        self._begin = self._place = place

    def _skip_space(self) -> bytes:
        """Move behind white space; returns the byte that follows it, b"" at the end of the file."""
        while True:
            found = _SPACE.match(self._text, self._begin)
            self._advance(found.end() if found else self._begin)
            if self._begin < len(self._text) or not self._fill():
                return self._text[self._begin : self._begin + 1]

    def open(self) -> None:
        """Move behind the array's bracket; raises DataError where there is none."""
        if self._skip_space() != b"[":
            what, remedy = "this is not one JSON array", "a .json file of rows begins with [; JSONL is named .jsonl"
            raise DataError(Problem(what, remedy, self._shown, self._line, code="HF018"))
        self._advance(self._begin + 1)

    def read_element(self) -> tuple[int, bytes | int] | None:
        """Return the line of the next element and its bytes, or their number above the limit; None behind the last.

        Raises DataError where the array is cut off, or something follows it.
        """
        # A comma behind the last row, which JSON does not allow and people write, is passed over: `[{"a": 1},]` has one
        # row.
        if self._skip_space() == b"]":
            self._check_end()
            return None
        line = self._line
        end = self._find_end(line)
        element: bytes | int = self._text[self._begin : end]
        if self._dropped or end - self._begin > self._limit:
            element, self._dropped = self._dropped + end - self._begin, 0
        self._advance(end if self._text[end : end + 1] == b"]" else end + 1)
        return line, element

    def _find_end(self, line: int) -> int:
        """Find the offset of the comma or bracket behind the element, reading on as far as it takes."""
        depth, quoted = 0, False
        while True:
            found = (_IN_STRING if quoted else _OUTSIDE).search(self._text, self._place)
            if found is None:
                self._place = len(self._text)
                if not self._fill():
                    remedy = "copy the file again; the rows above are whole"
                    raise DataError(
                        Problem("the array is cut off in the row of this line", remedy, self._shown, line, code="HF004")
                    )
                continue
            mark, self._place = found[0], found.end()
            if mark == b"\\":
                # One byte behind a backslash is enough, of \u0022 too, whose digits are no marks. It may be the first
                # of the next chunk.
                if self._place == len(self._text) and not self._fill():
                    continue
                self._place += 1
            elif mark == b'"':
                quoted = not quoted
            # Brackets are counted and not matched: where {"a": [1}] closes the wrong one, the parser of the row says
            # so.
            elif depth == 0 and mark in b",]":
                return found.start()
            elif mark in b"[{":
                depth += 1
            elif mark in b"]}":
                depth -= 1

    def _check_end(self) -> None:
        self._advance(self._begin + 1)
        if self._skip_space():
            remedy = "one array holds all rows of a .json file"
            raise DataError(
                Problem("something follows the end of the array", remedy, self._shown, self._line, code="HF018")
            )


def open_json_array(chunks: Iterator[bytes], shown: str, limit: int) -> Table:
    """Open a JSON array of objects; `limit`: the most bytes of a row. Raises DataError where there is no array."""
    scanner = _Scanner(chunks, shown, limit)
    scanner.open()
    return Table(None, _read_rows(scanner, shown, limit))


def _read_rows(scanner: _Scanner, shown: str, limit: int) -> Iterator[TableRow]:
    number = 0
    while (found := scanner.read_element()) is not None:
        number += 1
        line, element = found
        if isinstance(element, int):
            what = f"the row has {element:,} bytes, more than the limit of {limit:,}"
            yield TableRow(number, line, None, LineError(what, "split it, or raise data.max_line_bytes", code="HF015"))
            continue
        # Outside of strings a line break is white space, and inside it is not JSON.
        text = element.strip()
        try:
            parse_json_object(text)
        except LineError as bad:
            bad.reason += f" (line {line} of the file)"
            yield TableRow(number, line, None, bad)
        else:
            flat = text.replace(b"\r", b" ").replace(b"\n", b" ")
            yield TableRow(number, line, msgspec.json.decode(flat, type=dict[str, Raw]))
    if not number:
        raise DataError(Problem("the array is empty", "put rows into it, or leave it out", shown, code="HF007"))
