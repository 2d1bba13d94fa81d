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
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import cached_property
from itertools import accumulate

from hf_finetune.environment import ProgressLines
from hf_finetune.memory import format_size

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
_BASE64 = re.compile(rb"[A-Za-z0-9+/_-]{20,}")
_HEX = re.compile(rb"[0-9A-Fa-f]{32,}")
_LINE_FEED = re.compile(rb"\n")
_FROM_URL = bytes.maketrans(b"-_", b"+/")
# What is encoded more often is no accident, and no key is found in it by chance.
_DEPTH = 2
# A text over more lines is a list, as that of a vocabulary with a piece a line.
_MOST_LINES = 3
# Three bytes are four letters of base64, of which 4 / 3 as a float falls short.
_ROUNDING = 1e-6


@dataclass(frozen=True)
class Form:
    """A form of a file's text: its lines, or pieces of it that are each a line, or a run of letters of another form."""

    text: bytes
    starts: Sequence[int] = ()
    """Where the pieces begin; empty where they are the lines of the file."""
    origins: Sequence[tuple[int, float]] = ()
    """Of each piece where it comes from, and how many bytes of there make one of it; by default line after line."""
    source: Form | None = None
    """What the origins are places in."""
    is_joined: bool = False
    """Whether lines of the file were put together."""

    def find_line(self, place: int) -> int:
        """Find the line of the file, from 1, that the byte `place` comes from."""
        number = bisect_right(self.starts or self._line_starts, place)
        if self.source is None:
            return number
        # A run of letters may go over many lines, and what was encoded may begin in any of them.
        start, ratio = self.origins[number - 1]
        return self.source.find_line(start + int((place - self.starts[number - 1]) * ratio + _ROUNDING))

    @cached_property
    def _line_starts(self) -> list[int]:
        # Counting the lines before each place anew would be quadratic.
        return [0, *(found.end() for found in _LINE_FEED.finditer(self.text))]


def list_forms(content: bytes) -> Iterator[Form]:
    """Yield the forms of a file's `content`, each with as many bytes as that or fewer; bytes that are no text, too.

    Of a long one it is said every five seconds how many have been looked at: a form of 50 MB takes more than a second.
    """
    progress = ProgressLines(f"forms of a text of {format_size(len(content))} looked at for secrets and paths")
    for number, form in enumerate(_make_forms(content)):
        progress.log_if_due(number)
        yield form


def _make_forms(content: bytes) -> Iterator[Form]:
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
    return Form(b"".join(parts), _list_starts(parts), is_joined=True)


def _decode(form: Form) -> Form:
    """What runs of base64 and of hexadecimal digits in `form` say, a line each."""
    pieces: list[bytes] = []
    origins: list[tuple[int, float]] = []
    for shape, read, beginnings, ratio in ((_BASE64, _decode_base64, 4, 4 / 3), (_HEX, _decode_hex, 2, 2.0)):
        for found in shape.finditer(form.text):
            # In a longer run of letters the text may begin anywhere, so that each beginning is tried.
            for offset in range(beginnings):
                decoded = read(found[0][offset:])
                piece = decoded.replace(b"\0", b"")
                pieces.append(piece + b"\n")
                origins.append((found.start() + offset, ratio * len(decoded) / max(1, len(piece))))
    return Form(b"".join(pieces), _list_starts(pieces), origins, form)


def _list_starts(pieces: Sequence[bytes]) -> list[int]:
    return [0, *accumulate(map(len, pieces))][:-1]


def _decode_hex(run: bytes) -> bytes:
    return bytes.fromhex(run[: len(run) // 2 * 2].decode())


def _decode_base64(run: bytes) -> bytes:
    usable = run.translate(_FROM_URL)
    usable = usable[: len(usable) - (len(usable) % 4 == 1)]
    try:
        return base64.b64decode(usable + b"=" * (-len(usable) % 4))
    except binascii.Error:
        return b""
