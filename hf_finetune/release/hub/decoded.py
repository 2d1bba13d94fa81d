"""The forms in which a file may hold a text: as written, with its escapes read, its lines put together, and decoded.

A line of a form tells which line of the file it was, so that what is found in any of them is named by its place.
"""

from __future__ import annotations

import base64
import binascii
import html
import re
import unicodedata
from bisect import bisect_right
from collections.abc import Iterator
from dataclasses import dataclass, field
from functools import cached_property
from itertools import accumulate

# `\\u0068`, `\\x68`, `\\n` and `\\_` of JSON, YAML, Jinja and Markdown; `&#104;` and `%68`.
_ESCAPE = re.compile(
    r"\\(?:u\{?([0-9A-Fa-f]{4})\}?|U([0-9A-Fa-f]{8})|x([0-9A-Fa-f]{2})|([^\n]))|(&\#?\w{2,8};)|%([2-7][0-9A-Fa-f])"
)
_WHITE = frozenset("nrtfbv")
_INVISIBLE = re.compile("[\u00ad\u200b-\u200f\u2060-\u2064\ufeff]")
# 'hf_' ~ 'abc' of Jinja, 'hf_' + 'abc' and 'hf_' 'abc' of Python.
_PUT_TOGETHER = re.compile(r"""["'][ \t]*(?:[+~][ \t]*|[ \t])["']""")
# What stands around a piece of a text that goes on in the next line: quotes, signs of a comment, a backslash.
_MARGIN = " \t\r\"'`\\+~#>*|,"
_BASE64 = re.compile(rb"[A-Za-z0-9+/_-]{24,}")
_HEX = re.compile(rb"[0-9A-Fa-f]{40,}")
_LINE_FEED = re.compile(rb"\n")
_FROM_URL = bytes.maketrans(b"-_", b"+/")
# What is encoded more often is no accident, and no key is found in it by chance.
_DEPTH = 2
# A text over more lines is a list, as that of a vocabulary with a piece a line.
_MOST_LINES = 3


@dataclass(frozen=True)
class Form:
    """A form of a file's text, in pieces that begin at `starts` and come from `lines` of it; by default its lines."""

    text: bytes
    starts: list[int] = field(default_factory=list)
    lines: list[int] = field(default_factory=list)

    def find_line(self, place: int) -> int:
        """Find the line of the file, from 1, that the byte `place` comes from."""
        number = bisect_right(self.starts or self._line_starts, place)
        return self.lines[number - 1] if self.starts else number

    @cached_property
    def _line_starts(self) -> list[int]:
        # Counting the lines before each place anew would be quadratic.
        return [0, *(found.end() for found in _LINE_FEED.finditer(self.text))]


def list_forms(content: bytes) -> Iterator[Form]:
    """Yield the forms of a file's `content`, each with as many bytes as that or fewer; bytes that are no text, too."""
    # UTF-16 and UTF-32 of Latin letters, whichever way round and without a mark, are these letters and zeros.
    written = content.replace(b"\0", b"")
    text = written.decode("utf-8", "replace")
    plain = read_escapes(text).encode("utf-8", "surrogatepass")
    yield Form(written)
    if plain != written:
        yield Form(plain)
    pieces = [
        line.strip(_MARGIN).encode("utf-8", "surrogatepass")
        for line in plain.decode("utf-8", "surrogatepass").split("\n")
    ]
    for count in range(2, _MOST_LINES + 1):
        for first in range(count):
            yield _join_lines(pieces, first, count)
    for form in (Form(plain), _join_lines(pieces, len(pieces), len(pieces))):
        for _ in range(_DEPTH):
            form = _decode(form)
            if not form.text:
                break
            yield form


def read_escapes(text: str) -> str:
    """`text` with its escapes read, twice where they are escaped themselves; no line is added."""
    for _ in range(2):
        before, text = text, _ESCAPE.sub(_read_escape, text)
        if text == before:
            break
    if not text.isascii():
        text = unicodedata.normalize("NFKC", _INVISIBLE.sub("", text))
    return _PUT_TOGETHER.sub("", text)


def _read_escape(found: re.Match[str]) -> str:
    code = found[1] or found[2] or found[3] or found[6]
    if code:
        number = int(code, 16)
        letter = chr(number) if number <= 0x10FFFF else " "
    elif found[5]:
        letter = html.unescape(found[5])
    else:
        letter = " " if found[4] in _WHITE else found[4]
    return letter if "\n" not in letter else " "


def _join_lines(pieces: list[bytes], first: int, count: int) -> Form:
    """Put the first `first` of the lines together, and then `count` each."""
    ends = {first - 1, *range(first + count - 1, len(pieces), count)}
    parts = [piece + b"\n" if number in ends else piece for number, piece in enumerate(pieces)]
    return Form(b"".join(parts), [0, *accumulate(map(len, parts))][:-1], list(range(1, len(parts) + 1)))


def _decode(form: Form) -> Form:
    """What runs of base64 and of hexadecimal digits in `form` say, a line each."""
    pieces: list[bytes] = []
    lines: list[int] = []
    for found in _BASE64.finditer(form.text):
        line = form.find_line(found.start())
        # In a longer run of letters the text may begin anywhere, so that each of four beginnings is tried.
        for offset in range(4):
            pieces.append(_decode_base64(found[0][offset:]))
            lines.append(line)
    for found in _HEX.finditer(form.text):
        pieces.append(bytes.fromhex(found[0][: len(found[0]) // 2 * 2].decode()))
        lines.append(form.find_line(found.start()))
    pieces = [piece.replace(b"\0", b"") + b"\n" for piece in pieces]
    return Form(b"".join(pieces), [0, *accumulate(map(len, pieces))][:-1], lines)


def _decode_base64(run: bytes) -> bytes:
    usable = run.translate(_FROM_URL)
    usable = usable[: len(usable) - (len(usable) % 4 == 1)]
    try:
        return base64.b64decode(usable + b"=" * (-len(usable) % 4))
    except binascii.Error:
        return b""
