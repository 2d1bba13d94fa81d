"""The forms in which a file may hold a text: as written, with its escapes read, its lines put together, and decoded.

A line of a form tells which line of the file it was, so that what is found in any of them is named by its place.
"""

from __future__ import annotations

import html
import re
import unicodedata
from bisect import bisect_right
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from functools import cached_property
from itertools import accumulate

from hf_finetune.release.hub.search.decoders import AS_WRITTEN, DECODERS, Decoder, compile_bytes

# `\\u0068`, `\\u{68}`, `\\x68`, `\\150`, `\\n` and `\\_` of JSON, YAML, Jinja and Markdown; `&#104;` and `%68`.
_ESCAPE = re.compile(
    r"\\(?:u\{([0-9A-Fa-f]{1,6})\}|u([0-9A-Fa-f]{4})|U([0-9A-Fa-f]{8})|x([0-9A-Fa-f]{2})|([01][0-7]{2})|([^\n]))"
    r"|(&\#?\w{2,31};|&\#[0-9]{2,3})|%([2-7][0-9A-Fa-f])"
)
_OCTAL = 5
_WHITE = frozenset("nrtfbv")
# What takes no place where it is shown: soft hyphens, joiners, marks of direction, selectors and tags.
_INVISIBLE = re.compile(
    "[\u00ad\u034f\u061c\u115f\u1160\u17b4\u17b5\u180b-\u180f\u200b-\u200f\u202a-\u202e\u2060-\u206f\u3164\ufe00-\ufe0f"
    "\ufeff\uffa0\U000e0000-\U000e0fff]"
)
# 'hf_' ~ 'abc' of Jinja, 'hf_' + 'abc' and 'hf_' 'abc' of Python.
_PUT_TOGETHER = re.compile(r"""["'][ \t]*(?:[+~][ \t]*|[ \t])["']""")
# hf_abc<b></b>def, hf_abc<!-- -->def, hf_abc{# #}def and hf_abc**def**: shown, or rendered, as one word.
_MARKUP = re.compile(r"<[^<>\n]{0,200}>|\{#[^{}\n]{0,200}#\}|\*{1,3}|~~|`{1,3}")
# What stands around a piece of a text that goes on in the next line: quotes, signs of a comment, a backslash.
_MARGIN = b" \t\r\"'`\\+~#>*|,"
_LINE_FEED = re.compile(rb"\n")
_SIGNS = re.compile(rb"[\\&%<*]")
# Of what is decoded only stretches of text are looked at: bytes drawn by chance have one in some thousands.
_PRINTABLE = r"(?:[\t\n\r -~]|[\xc2-\xdf][\x80-\xbf]|[\xe0-\xef][\x80-\xbf]{2}|[\xf0-\xf4][\x80-\xbf]{3}){8,}"
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
    pieces: Sequence[bytes] = ()
    """What the text is put together of; empty where that is the lines of the file."""
    origins: Sequence[tuple[float, float]] = ()
    """Of each piece where it comes from, and how many bytes of there make one of it; by default line after line."""
    source: Form | None = None
    """What the origins are places in."""
    is_joined: bool = False
    """Whether lines of the file were put together."""

    def find_line(self, place: int) -> int:
        """Find the line of the file, from 1, that the byte `place` comes from."""
        number = bisect_right(self.starts, place)
        if self.source is None:
            return number
        # A run of letters may go over many lines, and what was encoded may begin in any of them.
        start, ratio = self.origins[number - 1]
        return self.source.find_line(int(start + (place - self.starts[number - 1]) * ratio + _ROUNDING))

    @cached_property
    def starts(self) -> list[int]:
        """Where the pieces, or the lines, begin."""
        # Where nothing is found nobody asks; counting the lines before each place anew would be quadratic.
        if self.pieces:
            return _list_starts(self.pieces)
        return [0, *(found.end() for found in _LINE_FEED.finditer(self.text))]


def list_forms(content: bytes) -> Iterator[Form]:
    """Yield the forms of a file's `content`, each with as many bytes as that or fewer; bytes that are no text, too."""
    # UTF-16 and UTF-32 of Latin letters, whichever way round and without a mark, are these letters and zeros.
    written = content.replace(b"\0", b"")
    plain = read_escapes(written.decode("utf-8", "replace"))
    shown = _MARKUP.sub("", plain)
    as_written, as_read = Form(written), Form(_encode(plain))
    yield as_written
    if as_read.text != written:
        yield as_read
    if shown != plain:
        yield Form(_encode(shown))
    pieces = [line.strip(_MARGIN) for line in _encode(shown).split(b"\n")]
    ended = [piece + b"\n" for piece in pieces]
    for count in range(2, _MOST_LINES + 1):
        for first in range(count):
            parts = pieces.copy()
            parts[first::count] = ended[first::count]
            yield Form(b"".join(parts), parts, is_joined=True)
    yield from _decode_all(as_written, AS_WRITTEN)
    yield from _decode_all(as_read, DECODERS)
    yield from _decode_all(Form(b"".join(pieces), pieces, is_joined=True), DECODERS)


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
    *codes, letter, entity, percent = found.groups()
    code = next(filter(None, codes), percent)
    if code:
        number = int(code, 8 if found[_OCTAL] else 16)
        letter = chr(number) if number <= 0x10FFFF else " "
    elif entity:
        letter = html.unescape(entity)
    elif letter in _WHITE:
        letter = " "
    return letter if "\n" not in letter else " "


def _encode(text: str) -> bytes:
    return text.encode("utf-8", "surrogatepass")


def _decode_all(form: Form, decoders: Sequence[Decoder]) -> Iterator[Form]:
    for _ in range(_DEPTH):
        form = _decode(form, decoders)
        if not form.text:
            break
        yield form
        if _SIGNS.search(form.text):
            yield _read_pieces(form)


def _decode(form: Form, decoders: Sequence[Decoder]) -> Form:
    """What runs of other letters in `form` say, as far as it is text: a piece for each stretch."""
    found: list[tuple[bytes, float, float]] = []
    for decoder in decoders:
        runs = [(each.start(), each[0]) for each in compile_bytes(decoder.shape).finditer(form.text)]
        for offset in range(decoder.beginnings if runs else 0):
            decoded = decoder.read([run[offset:] for _, run in runs])
            found += _find_texts(decoded, [(start + offset, len(run) - offset) for start, run in runs], decoder.ratio)
    return _put_pieces(found, form)


def _find_texts(
    decoded: Sequence[bytes], runs: Sequence[tuple[int, int]], ratio: float | None
) -> Iterator[tuple[bytes, float, float]]:
    """Yield each stretch of text in what `runs` of letters, (start, length), say: with its origin and ratio."""
    pieces = [piece.replace(b"\0", b"") for piece in decoded]
    starts = [start + number for number, start in enumerate(_list_starts(pieces))]
    # One search for all: a zero, which is no text, keeps them apart.
    for stretch in compile_bytes(_PRINTABLE).finditer(b"\0".join(pieces)):
        number = bisect_right(starts, stretch.start()) - 1
        begin, length = runs[number]
        letters = length if ratio is None else ratio * len(decoded[number])
        each = letters / len(pieces[number])
        yield stretch[0], begin + (stretch.start() - starts[number]) * each, each


def _read_pieces(form: Form) -> Form:
    """The pieces of `form` with their escapes read, and their markup taken out."""
    read = []
    for start, piece in zip(form.starts, form.pieces, strict=True):
        if _SIGNS.search(piece):
            shown = _encode(_MARKUP.sub("", read_escapes(piece[:-1].decode("utf-8", "replace"))))
            read.append((shown, float(start), len(piece) / max(1, len(shown))))
    return _put_pieces(read, form)


def _put_pieces(found: Iterable[tuple[bytes, float, float]], source: Form) -> Form:
    listed = list(found)
    texts = [text + b"\n" for text, _, _ in listed]
    return Form(b"".join(texts), texts, [(start, ratio) for _, start, ratio in listed], source)


def _list_starts(pieces: Sequence[bytes]) -> list[int]:
    return [0, *accumulate(map(len, pieces))][:-1]
