"""Data files -> blocks of lines, in constant memory.

Lines end at b"\\n" and nowhere else: a lone CR, U+2028 or U+0085 inside a string is text, where `str.splitlines` cuts.
gzip and zstd are recognized by their first bytes, not by the name of the file. A UTF-8 byte order mark is dropped.
"""

from __future__ import annotations

import gzip
import io
import logging
import zlib
from collections import deque
from collections.abc import Iterator, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path, PurePath
from typing import Literal, Protocol

import numpy as np
import zstandard

from hf_finetune.data.reading.file_kinds import check_binary, detect_wide_encoding
from hf_finetune.data.reading.json_line import LineError
from hf_finetune.errors import DataError, Problem

logger = logging.getLogger(__name__)

CHUNK_BYTES = 256 * 1024
STANDARD_INPUT = Path("-")
BOM = b"\xef\xbb\xbf"

_LINE_END = ord("\n")
_GZIP = b"\x1f\x8b"
_ZSTD = b"\x28\xb5\x2f\xfd"
_PACKED = {".gz": "gzip", ".zst": "zstd"}
# Of rows, gzip and zstd make a tenth to a fiftieth. A file that unpacks to more than this times its size is read for
# minutes where its size says seconds, or for days: it was made to be.
MOST_UNPACKED = 300
UNPACKED_ANYWAY = 256 * 1024**2
"""Bytes, in about a second: a file of blank lines or of one row many times is no bomb yet."""
# A kilobyte of zstd can hold many megabytes; small reads bound what one step decompresses.
_ZSTD_FEED = 1024


@dataclass(frozen=True, slots=True)
class LineBlock:
    """Consecutive lines of a file, joined by b"\\n": they are cut apart only where each is looked at."""

    first_line: int
    data: bytes
    count: int
    ended: bool = True
    """The last line was followed by b"\\n"."""
    overlong: int | None = None
    """Size in bytes of a line above the limit, which is dropped: the block then stands for that line alone."""
    numbers: Sequence[int] | None = None
    """The number of each line, where the file's own lines are others: rows of a table, which may span several."""
    fault: LineError | None = None
    """Why a row of a table is no row: the block then stands for that row alone."""
    row: int | None = None
    """The number of that row."""

    @property
    def is_blank(self) -> bool:
        """Whether it is of blank lines alone: a small .gz can hold hundreds of millions, too many to look at each."""
        return self.count > 0 and not self.data.strip(b" \t\r\n")

    @property
    def size(self) -> int:
        """Bytes that it has of the file, with the end of its last line; 0 of rows of a table."""
        if self.numbers is not None or self.fault is not None:
            return 0
        return 1 + (len(self.data) if self.overlong is None else self.overlong)

    @property
    def lines(self) -> list[bytes]:
        """Each line, without its b"\\n"."""
        return self.data.split(b"\n") if self.count else []

    @property
    def line_numbers(self) -> Sequence[int]:
        return range(self.first_line, self.first_line + self.count) if self.numbers is None else self.numbers


class ByteSource(Protocol):
    """A file to read: a path of this machine, or a file of another."""

    def open(self, mode: Literal["rb"], /) -> io.BufferedReader: ...


@dataclass(slots=True)
class ReadPlace:
    """Where in a file of lines its reader begins, and where it has been since; a compressed file is read from 0 on."""

    byte: int = 0
    line: int = 1
    """The line that begins there."""
    seeks: bool = False
    """Whether the file, once it is opened, can be entered at a byte."""
    starts: deque[tuple[int, int]] = field(default_factory=deque)
    """The first line of the last blocks, and its byte."""

    def watch(self, blocks: Iterator[LineBlock]) -> Iterator[LineBlock]:
        """Pass on the blocks of a file of lines, and note where each begins."""
        byte = self.byte
        for block in blocks:
            self.starts.append((block.first_line, byte))
            yield block
            byte += block.size

    def find(self, line: int) -> ReadPlace:
        """The place from which `line`, at or behind the one found before, is read again; forgets those before it."""
        while len(self.starts) > 1 and self.starts[1][0] <= line:
            self.starts.popleft()
        return ReadPlace(self.starts[0][1], self.starts[0][0]) if self.seeks and self.starts else ReadPlace()


def read_chunks(path: ByteSource, shown: str, place: ReadPlace | None = None) -> Iterator[bytes]:
    """Yield the decompressed bytes of a text file, or of `STANDARD_INPUT`, in chunks of about `CHUNK_BYTES`.

    Raises DataError where the file is damaged, unreadable, not UTF-8, or of a binary format.
    """
    return check_text(decompress(path, shown, place), shown)


def check_text(chunks: Iterator[bytes], shown: str) -> Iterator[bytes]:
    """Pass `chunks` on without a byte order mark; raises DataError where the first are not UTF-8 text."""
    for number, chunk in enumerate(chunks):
        if number == 0:
            _check_encoding(chunk, shown)
            if chunk.startswith(BOM):
                logger.info("%s starts with a UTF-8 byte order mark, which is not part of the text", shown)
            chunk = chunk.removeprefix(BOM)
        yield chunk


def decompress(path: ByteSource, shown: str, place: ReadPlace | None = None) -> Iterator[bytes]:
    """Yield the bytes of a file as `read_chunks` does, of whatever kind they are, from `place` on.

    Raises DataError where the file is unreadable, or its compression damaged.
    """
    try:
        with open(0, "rb", closefd=False) if path == STANDARD_INPUT else path.open("rb") as file:
            yield from _bound(_decompress(file, place), file, shown) if file.seekable() else _decompress(file, place)
    except (EOFError, zlib.error, gzip.BadGzipFile, zstandard.ZstdError) as error:
        raise DataError(
            Problem(
                f"the compressed file is damaged or cut off ({type(error).__name__})",
                "copy it again",
                path=shown,
                code="HF004",
            )
        ) from None
    except OSError as error:
        raise DataError(
            Problem(f"cannot be read: {error.strerror}", "check the file's permissions", path=shown, code="HF002")
        ) from None


def is_compressed(path: ByteSource) -> bool:
    """Whether a file is gzip or zstd as a whole. Raises OSError."""
    with path.open("rb") as file:
        return file.read(4).startswith((_GZIP, _ZSTD))


def explain_compression(path: ByteSource, shown: str) -> str | None:
    """What is to be said of a file of this machine that is compressed otherwise than its name says; None of others."""
    if not isinstance(path, Path) or path == STANDARD_INPUT:
        return None
    named = _PACKED.get(PurePath(shown.lower()).suffix)
    with suppress(OSError), path.open("rb") as file:  # its reader says so
        head = file.read(4)
        found = "gzip" if head.startswith(_GZIP) else "zstd" if head.startswith(_ZSTD) else None
        if found is not None and found != named:
            return f"it is {found}, which its name does not say, and read as such"
        if head and found is None and named is not None:
            return "its name says that it is compressed, which it is not: it is read as it stands"
    return None


def _decompress(file: io.BufferedReader, place: ReadPlace | None) -> Iterator[bytes]:
    head = file.peek(16)
    if place is not None and not head.startswith((_ZSTD, _GZIP)):
        place.seeks = True
        if place.byte:
            file.seek(place.byte)
        elif head.startswith(BOM):  # no part of the first line, which is where a reader may come back to
            place.byte = len(BOM)
    if head.startswith(_ZSTD):
        return _read_zstd(file)
    return _read_plain(gzip.GzipFile(fileobj=file) if head.startswith(_GZIP) else file)


def _bound(chunks: Iterator[bytes], file: io.BufferedReader, shown: str) -> Iterator[bytes]:
    """Pass `chunks` on; raises DataError where they are more than `MOST_UNPACKED` times what was read of `file`."""
    unpacked = 0
    for chunk in chunks:
        unpacked += len(chunk)
        if unpacked > UNPACKED_ANYWAY and unpacked > MOST_UNPACKED * file.tell():
            what = f"the compressed file unpacks to more than {MOST_UNPACKED} times its size"
            remedy = "rows are never so alike: see what it holds, or name the unpacked file"
            raise DataError(Problem(what, remedy, path=shown, code="HF009"))
        yield chunk


def _read_plain(file: gzip.GzipFile | io.BufferedReader) -> Iterator[bytes]:
    # Of a pipe, read what is there: a `read` that waits for more misses a Ctrl-C between two of its system calls.
    read = file.read if file.seekable() else file.read1
    while chunk := read(CHUNK_BYTES):
        yield chunk


def _read_zstd(file: io.BufferedReader) -> Iterator[bytes]:
    # zstandard's stream_reader (0.25) ends without an error where a file is truncated; decompressobj has `eof`. A file
    # may hold several frames, as `cat a.zst b.zst` writes: the bytes behind one are `unused_data`.
    decompressor = zstandard.ZstdDecompressor()
    frame = decompressor.decompressobj()
    unpacked, started = bytearray(), False
    while packed := file.read(_ZSTD_FEED):
        while packed:
            if frame.eof:
                frame = decompressor.decompressobj()
            unpacked += frame.decompress(packed)
            started, packed = True, frame.unused_data if frame.eof else b""
        if len(unpacked) >= CHUNK_BYTES:
            yield bytes(unpacked)
            unpacked.clear()
    if unpacked:
        yield bytes(unpacked)
    if started and not frame.eof:
        raise EOFError


def _check_encoding(head: bytes, shown: str) -> None:
    """Raise DataError where the first bytes are those of a binary format, or of UTF-16 or UTF-32."""
    check_binary(head, shown)
    wide = detect_wide_encoding(head)
    if wide is not None:
        raise DataError(
            Problem(
                f"byte 1 starts {wide} text, not UTF-8",
                f"convert the file: `iconv -f {wide} -t UTF-8 old > new`",
                path=shown,
                line=1,
                code="HF003",
            )
        )


def iterate_line_blocks(chunks: Iterator[bytes], max_line_bytes: int, first_line: int = 1) -> Iterator[LineBlock]:
    """Cut chunks into blocks of whole lines; a line above the limit is skipped, never held in memory."""
    # The chunks b"a\nb" and b"c\nd" give the blocks [a], [bc] and [d], and the last has not ended.
    pending: list[bytes] = []  # pieces of the line that has not ended yet
    held = 0  # their size in bytes
    skipped = 0  # the size so far of a line above the limit
    number = first_line
    for chunk in chunks:
        if skipped:
            end = chunk.find(b"\n")
            if end < 0:
                skipped += len(chunk)
                continue
            yield LineBlock(number, b"", 0, overlong=skipped + end)
            number, skipped, chunk = number + 1, 0, chunk[end + 1 :]
        cut = chunk.rfind(b"\n")
        if cut >= 0:
            data = b"".join((*pending, memoryview(chunk)[:cut]))
            pending, held = [], 0
            # numpy, as bytes.count is a third as fast.
            count = 1 + int(np.count_nonzero(np.frombuffer(data, np.uint8) == _LINE_END))
            yield from _split_overlong(number, data, count, max_line_bytes)
            number += count
            # A suspended generator keeps its locals: without this, two blocks are in memory at a time.
            del data
        pending.append(chunk[cut + 1 :])
        held += len(pending[-1])
        if held > max_line_bytes:
            skipped, pending, held = held, [], 0
    if skipped:
        yield LineBlock(number, b"", 0, overlong=skipped)
    elif held:
        data = b"".join(pending)
        yield LineBlock(number, data, 1, ended=False)


def _split_overlong(number: int, data: bytes, count: int, limit: int) -> Iterator[LineBlock]:
    """Yield `count` lines as one block, or, if one is above the limit, as a block each."""
    if len(data) <= limit or max(map(len, lines := data.split(b"\n"))) <= limit:
        yield LineBlock(number, data, count)
        return
    for offset, line in enumerate(lines):
        overlong = len(line) if len(line) > limit else None
        yield LineBlock(number + offset, b"" if overlong else line, 0 if overlong else 1, overlong=overlong)
