"""Data files -> checked rows: every line is accepted, rejected with its reason, or blank."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from functools import partial
from typing import Any, Literal

from msgspec import Struct

from hf_finetune.data.reading.json_line import LineError, decode_utf8, parse_json_object
from hf_finetune.data.reading.lines import (
    ByteSource,
    LineBlock,
    ReadPlace,
    explain_compression,
    iterate_line_blocks,
    read_chunks,
)
from hf_finetune.data.reading.row_decoder import RowDecoder
from hf_finetune.data.reading.row_lines import RowSettings, iterate_row_blocks, log_note
from hf_finetune.data.reading.row_types import TextRow
from hf_finetune.errors import MAX_PROBLEMS_SHOWN, DataError, Problem
from hf_finetune.metric_info import choose_verb, say_count

MAX_DOCUMENT_BYTES = 1024**3

TextCut = Literal["lines", "paragraphs", "file"]


@dataclass(frozen=True, slots=True)
class RejectedLine:
    """A line that is dropped, and the reason."""

    line: int
    reason: str
    remedy: str
    code: str
    key: str | None = None
    misspelled: str | None = None


@dataclass(slots=True)
class LineCounts:
    """Counts of a file's lines, updated while it is read: accepted + rejected + blank == lines."""

    lines: int = 0
    accepted: int = 0
    blank: int = 0
    rows: int = 0
    rejected: int = 0
    bytes: int = 0
    """Of the lines of the file; of a table, whose rows become other lines, 0."""
    first: list[RejectedLine] = field(default_factory=list)
    """The first `MAX_PROBLEMS_SHOWN` of the rejected lines."""
    misspelled: Counter[str] = field(default_factory=Counter)
    """Rows by the misspelled key that they are rejected for; of the first keys alone, as there may be one a row."""
    keep: Callable[[int, LineError], None] | None = None
    """Takes each rejected line, by its number."""
    note: Callable[[str], None] | None = None
    """Takes what is not as usual about the file, such as its encoding; by default the log does."""

    def reject(self, line: int, bad: LineError) -> None:
        """Count a line as rejected."""
        self.rejected += 1
        if len(self.first) < MAX_PROBLEMS_SHOWN:
            self.first.append(RejectedLine(line, bad.reason, bad.remedy, bad.code, bad.key, bad.misspelled))
        if bad.misspelled and (bad.misspelled in self.misspelled or len(self.misspelled) < MAX_PROBLEMS_SHOWN):
            self.misspelled[bad.misspelled] += 1
        if self.keep is not None:
            self.keep(line, bad)


@dataclass(frozen=True, slots=True)
class RowBlock:
    """Consecutive rows of a file, and the (first) line of each."""

    rows: list[Any]
    line_numbers: Sequence[int]


def is_blank(line: bytes) -> bool:
    """True for a line of JSON white space alone."""
    return not line.strip(b" \t\r")


def read_rows(
    path: ByteSource,
    shown: str,
    decoder: RowDecoder,
    settings: RowSettings,
    tally: LineCounts,
    place: ReadPlace | None = None,
) -> Iterator[RowBlock]:
    """Yield the rows of a file, one for each accepted line; `tally` is complete when the iterator is exhausted.

    `shown` is the path as the user wrote it. Raises DataError where the file as a whole holds no rows; a bad line, or
    row of a table, is counted in `tally`, not raised.
    """
    for block in iterate_row_blocks(path, shown, settings, place, tally.note):
        rows = decode_block(block, shown, decoder, settings.max_line_bytes, tally)
        if rows is not None:
            yield rows


def decode_block(
    block: LineBlock, shown: str, decoder: RowDecoder, max_line_bytes: int, tally: LineCounts
) -> RowBlock | None:
    """Decode the lines of a block, and count them in `tally`; None where none of them is a row."""
    tally.bytes += block.size
    # Nearly all blocks pass as a whole; lines are decoded one by one only in a block that has a bad one.
    whole = block.count > 0 and not block.is_blank
    rows = decoder.decode_block(block.data, block.count) if whole else None
    if rows is not None:
        tally.lines += len(rows)
        tally.accepted += len(rows)
        numbers = block.line_numbers
    else:
        rows, numbers = _decode_lines(block, shown, decoder, max_line_bytes, tally)
    tally.rows += len(rows)
    return RowBlock(rows, numbers) if rows else None


def _decode_lines(
    block: LineBlock, shown: str, decoder: RowDecoder, max_line_bytes: int, tally: LineCounts
) -> tuple[list[Struct], list[int]]:
    """Decode a block that did not pass as a whole: its sound rows and their line numbers; the others are counted."""
    rows, numbers = [], []
    for number, line in _iterate_checked_lines(block, max_line_bytes, tally):
        try:
            rows.append(decoder.decode_line(line, f"{shown}:{number}"))
        except LineError as bad:
            tally.reject(number, bad)
        else:
            numbers.append(number)
    tally.accepted += len(rows)
    return rows, numbers


def _iterate_checked_lines(block: LineBlock, max_line_bytes: int, tally: LineCounts) -> Iterator[tuple[int, bytes]]:
    """Yield the numbered lines that are neither blank nor too long, counting all."""
    fault = block.fault if block.overlong is None else _build_length_error(block.overlong, max_line_bytes)
    if fault is not None:
        tally.lines += 1
        tally.reject(block.first_line, fault)
    if block.is_blank:
        tally.lines += block.count
        tally.blank += block.count
        return
    for number, line in zip(block.line_numbers, block.lines, strict=True):
        tally.lines += 1
        if is_blank(line):
            tally.blank += 1
        else:
            yield number, line


def _build_length_error(size: int, limit: int) -> LineError:
    return LineError(
        f"the line has {size:,} bytes, more than the limit of {limit:,}",
        "split it, or raise data.max_line_bytes",
        code="HF015",
    )


def read_text(
    path: ByteSource,
    shown: str,
    cut: TextCut,
    max_line_bytes: int,
    tally: LineCounts,
    place: ReadPlace | None = None,
) -> Iterator[RowBlock]:
    """Yield the documents of a plain text file; CRLF counts as one line end.

    lines: each line that is not blank. paragraphs: separated by blank lines. file: the whole text. Raises DataError
    where the file is not UTF-8 text, or too large for one document.
    """
    if (compressed := explain_compression(path, shown)) is not None:
        (tally.note or partial(log_note, shown))(compressed)
    chunks = read_chunks(path, shown, place)
    lines = iterate_line_blocks(chunks, max_line_bytes, 1 if place is None else place.line)
    if place is not None:
        lines = place.watch(lines)
    if cut == "file":
        blocks = _yield_whole_file(lines, shown, max_line_bytes, tally)
    else:
        decoded = (_decode_text_lines(block, max_line_bytes, tally) for block in lines)
        blocks = _yield_lines(decoded) if cut == "lines" else _yield_paragraphs(decoded)
    for block in blocks:
        tally.rows += len(block.rows)
        yield block


def _decode_text_lines(block: LineBlock, max_line_bytes: int, tally: LineCounts) -> list[tuple[int, str]]:
    """Decode the lines of a block: number and text of each that is valid UTF-8, blank ones included."""
    good: list[tuple[int, str]] = []
    tally.bytes += block.size
    if block.overlong is not None:
        tally.lines += 1
        tally.reject(block.first_line, _build_length_error(block.overlong, max_line_bytes))
    if block.count and not block.data.strip(b"\n"):
        tally.lines += block.count
        tally.blank += block.count
        return [(block.first_line, "\n" * (block.count - 1))]  # one for all
    for number, line in enumerate(block.lines, block.first_line):
        tally.lines += 1
        try:
            text = decode_utf8(line).removesuffix("\r")
        except LineError as bad:
            tally.reject(number, bad)
            continue
        blank = not text.strip()
        tally.blank += blank
        tally.accepted += not blank
        good.append((number, text))
    return good


def _yield_lines(decoded: Iterator[list[tuple[int, str]]]) -> Iterator[RowBlock]:
    for lines in decoded:
        kept = [(number, text) for number, text in lines if text.strip()]
        if kept:
            yield RowBlock([TextRow(text) for _, text in kept], [number for number, _ in kept])


def _yield_paragraphs(decoded: Iterator[list[tuple[int, str]]]) -> Iterator[RowBlock]:
    """Yield paragraphs by the line that each starts on; one may span several blocks."""
    # Of the lines "a", "b", "", "c", the documents are "a\nb" of line 1 and "c" of line 4.
    paragraph: list[str] = []
    start = 0
    for lines in decoded:
        block = RowBlock([], numbers := [])
        for number, text in lines:
            if text.strip():
                start = start if paragraph else number
                paragraph.append(text)
            elif paragraph:
                block.rows.append(TextRow("\n".join(paragraph)))
                numbers.append(start)
                paragraph = []
        if block.rows:
            yield block
    if paragraph:
        yield RowBlock([TextRow("\n".join(paragraph))], [start])


def _yield_whole_file(
    lines: Iterator[LineBlock], shown: str, max_line_bytes: int, tally: LineCounts
) -> Iterator[RowBlock]:
    texts: list[str] = []
    size = 0
    for block in lines:
        # Joined as the file has them: whether the last line of a block had a line break is known by `ended`.
        decoded = [text for _, text in _decode_text_lines(block, max_line_bytes, tally)]
        texts.append("\n".join(decoded) + "\n" if block.ended and decoded else "\n".join(decoded))
        size += len(texts[-1])
        if size > MAX_DOCUMENT_BYTES:
            remedy = "set data.format to paragraphs or lines"
            raise DataError(Problem("the file is too large to be one document", remedy, path=shown, code="HF009"))
    text = "".join(texts)
    if text.strip():
        yield RowBlock([TextRow(text)], [1])


def read_first_row(path: ByteSource, shown: str, settings: RowSettings) -> tuple[dict[str, Any], int] | None:
    """Return the first line that is a valid JSON object, and its number; None where no line is.

    Raises DataError where the file as a whole holds no rows.
    """
    for block in iterate_row_blocks(path, shown, settings):
        for number, line in () if block.is_blank else zip(block.line_numbers, block.lines, strict=True):
            if is_blank(line):
                continue
            try:
                return parse_json_object(line), number
            except LineError:
                continue
    return None


def _say_rows(count: int) -> str:
    return f"{say_count(count, 'row')} {choose_verb(count, 'has', 'have')}"


def describe_rejected_lines(shown: str, tally: LineCounts, most: int) -> list[Problem]:
    """Describe the first `most` rejected lines; for a misspelled key, with the number of rows that have it."""
    return [
        Problem(
            line.reason
            if not line.misspelled
            else f"{line.reason} ({_say_rows(tally.misspelled[line.misspelled])} it)",
            line.remedy,
            path=shown,
            line=line.line,
            key=line.key,
            code=line.code,
        )
        for line in tally.first[:most]
    ]
