"""Data files -> blocks of lines, in constant memory.

Lines end at b"\\n" and nowhere else: a lone CR, U+2028 or U+0085 inside a string is text, where `str.splitlines` cuts.
gzip and zstd are recognized by their first bytes, not by the name of the file. A UTF-8 byte order mark is dropped.
"""

from __future__ import annotations

import gzip
import io
import json
import logging
import zlib
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import zstandard

from hf_finetune.errors import DataError, Problem
from hf_finetune.shell import shell_path

logger = logging.getLogger(__name__)

CHUNK_BYTES = 256 * 1024
STANDARD_INPUT = Path("-")
BOM = b"\xef\xbb\xbf"

_GZIP = b"\x1f\x8b"
_ZSTD = b"\x28\xb5\x2f\xfd"
# A kilobyte of zstd can hold many megabytes; small reads bound what one step decompresses.
_ZSTD_FEED = 1024

_OTHER_FILES = {
    b"PK\x03\x04": "a zip archive (or a spreadsheet)",
    b"PAR1": "a Parquet file",
    b"ARROW1": "an Arrow file",
    b"BZh": "a bzip2 file",
    b"\xfd7zXZ\x00": "an xz file",
    b"SQLite format 3": "an SQLite database",
}


@dataclass(frozen=True, slots=True)
class LineBlock:
    """Consecutive lines of a file, without their b"\\n"; `data` is the same lines joined by it."""

    first_line: int
    data: bytes
    lines: list[bytes]
    ended: bool = True
    """The last line was followed by b"\\n"."""
    overlong: int | None = None
    """Size in bytes of a line above the limit, which is dropped: the block then stands for that line alone."""


def read_chunks(path: Path, shown: str) -> Iterator[bytes]:
    """Yield the decompressed bytes of a file, or of `STANDARD_INPUT`, in chunks of about `CHUNK_BYTES`.

    Raises DataError where the file is damaged, unreadable, not UTF-8, or of a binary format.
    """
    try:
        with open(0, "rb", closefd=False) if path == STANDARD_INPUT else path.open("rb") as file:
            yield from _decompress(file, shown)
    except (EOFError, zlib.error, gzip.BadGzipFile, zstandard.ZstdError) as error:
        raise DataError(
            Problem(f"the compressed file is damaged or cut off ({type(error).__name__})", "copy it again", path=shown)
        ) from None
    except OSError as error:
        raise DataError(
            Problem(f"cannot be read: {error.strerror}", "check the file's permissions", path=shown)
        ) from None


def _decompress(file: io.BufferedReader, shown: str) -> Iterator[bytes]:
    """Yield decompressed chunks, the first one checked and without a byte order mark."""
    head = file.peek(16)
    if head.startswith(_ZSTD):
        chunks = _read_zstd(file)
    elif head.startswith(_GZIP):
        chunks = _read_plain(gzip.GzipFile(fileobj=file))
    else:
        chunks = _read_plain(file)
    for number, chunk in enumerate(chunks):
        if number == 0:
            _check_encoding(chunk, shown)
            if chunk.startswith(BOM):
                logger.info("%s starts with a UTF-8 byte order mark, which is not part of the text", shown)
            chunk = chunk.removeprefix(BOM)
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
    for magic, kind in _OTHER_FILES.items():
        if head.startswith(magic):
            raise DataError(Problem(f"this is {kind}, not lines of text", "unpack or convert it to JSONL", path=shown))
    wide = _detect_wide_encoding(head)
    if wide is not None:
        raise DataError(
            Problem(
                f"byte 1 starts {wide} text, not UTF-8",
                f"convert the file: `iconv -f {wide} -t UTF-8 old > new`",
                path=shown,
                line=1,
            )
        )


def _detect_wide_encoding(head: bytes) -> str | None:
    """Name the encoding of UTF-16 or UTF-32 text, by its byte order mark or by the zero bytes of ASCII letters."""
    if head.startswith((b"\xff\xfe\x00\x00", b"\x00\x00\xfe\xff")):
        return "UTF-32"
    if head.startswith((b"\xff\xfe", b"\xfe\xff")):
        return "UTF-16"
    sample = head[:64]  # without a mark "{}" is 7B 00 7D 00 in UTF-16LE
    if len(sample) >= 4 and not any(sample[1::2]):
        return "UTF-16LE"
    if len(sample) >= 4 and not any(sample[0::2]):
        return "UTF-16BE"
    return None


def iterate_line_blocks(chunks: Iterator[bytes], max_line_bytes: int) -> Iterator[LineBlock]:
    """Cut chunks into blocks of whole lines; a line above the limit is skipped, never held in memory."""
    # The chunks b"a\nb" and b"c\nd" give the blocks [a], [bc] and [d], and the last has not ended.
    pending: list[bytes] = []  # pieces of the line that has not ended yet
    held = 0  # their size in bytes
    skipped = 0  # the size so far of a line above the limit
    number = 1
    for chunk in chunks:
        if skipped:
            end = chunk.find(b"\n")
            if end < 0:
                skipped += len(chunk)
                continue
            yield LineBlock(number, b"", [], overlong=skipped + end)
            number, skipped, chunk = number + 1, 0, chunk[end + 1 :]
        cut = chunk.rfind(b"\n")
        if cut >= 0:
            data = b"".join((*pending, memoryview(chunk)[:cut]))
            pending, held = [], 0
            lines = data.split(b"\n")
            yield from _split_overlong(number, data, lines, max_line_bytes)
            number += len(lines)
            # A suspended generator keeps its locals: without this, two blocks are in memory at a time.
            del data, lines
        pending.append(chunk[cut + 1 :])
        held += len(pending[-1])
        if held > max_line_bytes:
            skipped, pending, held = held, [], 0
    if skipped:
        yield LineBlock(number, b"", [], overlong=skipped)
    elif held:
        data = b"".join(pending)
        yield LineBlock(number, data, [data], ended=False)


def _split_overlong(number: int, data: bytes, lines: list[bytes], limit: int) -> Iterator[LineBlock]:
    """Yield lines as one block, or, if one is above the limit, as a block each."""
    if len(data) <= limit or max(map(len, lines)) <= limit:
        yield LineBlock(number, data, lines)
        return
    for offset, line in enumerate(lines):
        overlong = len(line) if len(line) > limit else None
        yield LineBlock(number + offset, b"" if overlong else line, [] if overlong else [line], overlong=overlong)


def check_json_layout(head: bytes, shown: str) -> None:
    """Raise DataError, with the command that converts it, for a JSON array or pretty-printed JSON instead of JSONL."""
    text = head.decode("utf-8", errors="replace").lstrip()
    if text.startswith("[") and _is_array_of_objects(text):
        remedy = (
            "convert it: `python -c 'import json,sys; [print(json.dumps(row)) for row in json.load(sys.stdin.buffer)]' "
            f"< {shell_path(shown)} > rows.jsonl`"
        )
        raise DataError(Problem("this is one JSON array, not one object a line", remedy, path=shown, line=1))
    if text.startswith("{") and _has_multiline_object(text):
        remedy = (
            "convert it: `python -c 'import json,re,sys; [print(json.dumps(json.loads(row))) for row in "
            r're.split(rb"(?<=})\s*\n(?={)", sys.stdin.buffer.read().strip())]'
            f"' < {shell_path(shown)} > rows.jsonl`"
        )
        raise DataError(Problem("this is pretty-printed JSON, not one object a line", remedy, path=shown, line=1))


def _is_array_of_objects(text: str) -> bool:
    """True where `text`, the head of a file, is or begins an array of objects."""
    decoder = json.JSONDecoder()
    try:
        value, end = decoder.raw_decode(text)
        return bool(value) and isinstance(value[0], dict) and not text[end:].strip()
    except (json.JSONDecodeError, RecursionError):
        inside = text[1:].lstrip()
    if not inside.startswith("{"):
        return False
    try:
        _, end = decoder.raw_decode(inside)
    except json.JSONDecodeError as error:  # the head may end inside the first object
        return error.pos >= len(inside.rstrip()) or error.msg.startswith("Unterminated")
    except RecursionError:
        return False
    return inside[end:].lstrip()[:1] in {"", ","}


def _has_multiline_object(text: str) -> bool:
    """True where the first JSON value of `text` has line breaks in it."""
    try:
        _, end = json.JSONDecoder().raw_decode(text)
    except (json.JSONDecodeError, RecursionError):
        return False
    return "\n" in text[:end]
