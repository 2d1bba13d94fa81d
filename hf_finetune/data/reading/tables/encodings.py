"""Bytes -> text: which encoding a file is in, found out of its bytes."""

from __future__ import annotations

import codecs
import io
import re
from collections.abc import Callable, Iterator
from dataclasses import dataclass

from hf_finetune.data.reading.file_kinds import detect_wide_encoding
from hf_finetune.errors import DataError, Problem
from hf_finetune.metric_info import say_count

SURROGATES = re.compile("[\ud800-\udfff]")
# Bytes that Windows-1252 leaves undefined: a file with one of them is Latin-1.
_UNDEFINED = re.compile(rb"[\x81\x8d\x8f\x90\x9d]")

Chunks = Callable[[], Iterator[bytes]]


@dataclass(frozen=True, slots=True)
class Encoding:
    """How the bytes of a file are text; `note` says why it is not plain UTF-8, `damaged` that some bytes are not it."""

    name: str
    note: str = ""
    damaged: bool = False

    @property
    def errors(self) -> str:
        return {"utf-16": "surrogatepass", "utf-32": "strict"}.get(self.name, "surrogateescape")


class _ChunkStream(io.RawIOBase):
    """A stream over chunks of bytes, for io.TextIOWrapper."""

    def __init__(self, chunks: Iterator[bytes]) -> None:
        self._chunks = chunks
        self._rest = memoryview(b"")

    def readable(self) -> bool:
        return True

    def readinto(self, buffer: memoryview) -> int:  # type: ignore[override]
        if not self._rest:
            self._rest = memoryview(next(self._chunks, b""))
        # What a chunk has beyond the buffer waits for the next call: a raw stream may give less than was asked for.
        size = min(len(buffer), len(self._rest))
        buffer[:size] = self._rest[:size]
        self._rest = self._rest[size:]
        return size


def open_text(chunks: Chunks, encoding: Encoding) -> io.TextIOWrapper:
    """Open the text of a file from its beginning; line ends stay as they are."""
    stream = io.BufferedReader(_ChunkStream(chunks()), 64 * 1024)
    # newline="": csv itself tells a line break inside quotes from one that ends a row.
    return io.TextIOWrapper(stream, encoding.name, errors=encoding.errors, newline="")


def detect_encoding(chunks: Iterator[bytes], shown: str) -> Encoding:
    """Detect how the bytes of a whole file are text: UTF-8, UTF-16 or UTF-32 by their mark, or one byte a character.

    Bytes that are not UTF-8 beside more that are make it a damaged UTF-8 file, of which single rows are rejected.
    Raises DataError for UTF-16 without a mark.
    """
    decoder = codecs.getincrementaldecoder("utf-8")("surrogateescape")
    bad = good = 0
    undefined = False
    first = b""
    # The whole file and not its beginning: the only letter that is not ASCII may stand in the last row.
    for number, chunk in enumerate(chunks):
        if number == 0:
            first = chunk[:4]
            wide = _choose_wide(chunk, shown)
            if wide is not None:
                return wide
        text = decoder.decode(chunk)
        if not text.isascii():
            strange = len(SURROGATES.findall(text))
            bad += strange
            good += len(text) - len(text.encode("ascii", "ignore")) - strange
        undefined = undefined or _UNDEFINED.search(chunk) is not None
    bad += len(SURROGATES.findall(decoder.decode(b"", final=True)))
    if not bad:
        marked = first.startswith(codecs.BOM_UTF8)
        return Encoding("utf-8-sig", "it starts with a UTF-8 byte order mark") if marked else Encoding("utf-8")
    # b"caf\xe9" has one bad byte and nothing good: Windows-1252. Two files of both encodings, joined, have much of
    # either.
    if good >= bad:
        return Encoding("utf-8-sig", damaged=True)
    name, title = ("latin-1", "Latin-1") if undefined else ("cp1252", "Windows-1252")
    return Encoding(name, f"it is not UTF-8 ({say_count(bad, 'byte')}) and read as {title}")


def _choose_wide(head: bytes, shown: str) -> Encoding | None:
    wide = detect_wide_encoding(head)
    if wide in {"UTF-16", "UTF-32"}:
        return Encoding(wide.lower(), f"it is read as {wide}, by its byte order mark", damaged=True)
    if wide is not None:
        what, remedy = f"this looks like {wide} without a byte order mark", f"`iconv -f {wide} -t UTF-8 old > new`"
        raise DataError(Problem(what, f"convert the file: {remedy}", shown, 1, code="HF003"))
    return None
