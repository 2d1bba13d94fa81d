"""The ways in which a text is written as other letters: one list, of the shape of a run of them and how it is read.

The shapes are matched by RE2 over bytes, and each run is read once for each place where a text may begin in it, so that
the time grows with the text alone.
"""

from __future__ import annotations

import base64
import binascii
import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import cache
from typing import Any

import numpy as np
import re2

_TO_BLANKS = bytes.maketrans(b",;_-", b"    ")
_FROM_URL = bytes.maketrans(b"-_", b"+/")
# 68 66 5f, 68:66:5f, 6866 5f61 and 0x68, 0x66
_HEX_LIST = r"(?:(?:[0-9A-Fa-f]{2}){1,8}[ :,;._-]{1,2}){7,}(?:[0-9A-Fa-f]{2}){1,8}|(?:0x[0-9A-Fa-f]{2}[ ,;]{0,3}){8,}"
# Quoted-printable of mail: =68 is an h, and a line that ends with = goes on in the next.
_QUOTED = re.compile(rb"=(?:([2-7][0-9A-Fa-f])|\r?\n)")
_QUOTED_TEXT = r"(?:[^\n=]{0,80}=(?:[2-7][0-9A-Fa-f]|\r?\n))+[^\n=]{0,80}"
_CODE = r"(?:3[2-9]|[4-9][0-9]|1[01][0-9]|12[0-6])"
# In a group of letters the first tells of which kind the first byte is, here a printable one, a tab or a line feed. So
# a run begins where its text does, and neither words nor hashes look like one.
_BASE32 = r"(?:[BE-P][A-Z2-7]{7}){3,}[A-Z2-7]{0,7}|(?:[be-p][a-z2-7]{7}){3,}[a-z2-7]{0,7}"
# "g", "h", "p" of JSON, and g-h-p, with one sign or another between.
_LISTED = r"(?:[\"'][ -~][\"'],\s{0,16}){15,}[\"'][ -~][\"']"
_JOINED = r"(?:[ -~][-.,|/:_]){15,}[!-~]"
# 01100111 01101000, 0b1100111, and all in one.
_BITS = r"(?:(?:0b)?[01]{7,8}[ ,;_-]{1,3}){15,}(?:0b)?[01]{7,8}"
_LETTERS_85 = b"0123456789ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz!#$%&()*+-;<=>?@^_`{|}~"
_OF_85 = r"[0-9A-Za-z!#$%&()*+;<=>?@^_`{|}~-]"
_BASE85 = rf"(?:[23A-Za-e]{_OF_85}{{4}}){{4,}}{_OF_85}{{0,4}}"
_ASCII85 = r"(?:[#$+-I][!-u]{4}){4,}[!-u]{0,4}"


@dataclass(frozen=True)
class Decoder:
    """A way to write bytes as letters."""

    shape: str
    read: Callable[[Sequence[bytes]], Sequence[bytes]]
    """Runs to what they say, one each; empty where a run says nothing."""
    beginnings: int = 1
    """In a longer run of letters the text may begin anywhere: how many places are tried."""
    ratio: float | None = None
    """How many letters make a byte; None where it differs from run to run."""


@cache
def compile_bytes(shape: str) -> Any:
    """Compile `shape` with RE2, for bytes: one letter each, whatever they are in UTF-8."""
    options = re2.Options()
    options.encoding = re2.Options.Encoding.LATIN1
    return re2.compile(shape.encode(), options)


def _read_base64(runs: Sequence[bytes]) -> list[bytes]:
    return [_read_one_base64(run.translate(_FROM_URL)) for run in runs]


def _read_one_base64(run: bytes) -> bytes:
    usable = run[: len(run) - (len(run) % 4 == 1)]
    try:
        return base64.b64decode(usable + b"=" * (-len(usable) % 4))
    except binascii.Error:
        return b""


def _read_hex(runs: Sequence[bytes]) -> list[bytes]:
    return [bytes.fromhex(run[: len(run) // 2 * 2].decode()) for run in runs]


def _read_hex_list(runs: Sequence[bytes]) -> list[bytes]:
    return _read_hex([run.replace(b"0x", b"").translate(None, b" :,;._-") for run in runs])


def _read_codes(runs: Sequence[bytes]) -> list[bytes]:
    return [bytes(map(int, run.replace(b",", b" ").replace(b";", b" ").split())) for run in runs]


def _read_spelled(runs: Sequence[bytes]) -> list[bytes]:
    return [b"".join(run.split()) for run in runs]


def _read_listed(runs: Sequence[bytes]) -> list[bytes]:
    return [re.sub(rb"(?s)[\"'](.)[\"'](?:,\s*)?", rb"\1", run) for run in runs]


def _read_joined(runs: Sequence[bytes]) -> list[bytes]:
    return [run[::2] for run in runs]


def _read_bits(runs: Sequence[bytes]) -> list[bytes]:
    listed = [run.replace(b"0b", b"").translate(_TO_BLANKS).split() for run in runs]
    return [bytes(int(bits, 2) for bits in run) for run in listed]


def _read_all_bits(runs: Sequence[bytes]) -> list[bytes]:
    return [np.packbits(np.frombuffer(run[: len(run) // 8 * 8], np.uint8) - ord("0")).tobytes() for run in runs]


def _read_quoted(runs: Sequence[bytes]) -> list[bytes]:
    return [_QUOTED.sub(lambda found: bytes.fromhex(found[1].decode()) if found[1] else b"", run) for run in runs]


def _read_base32(runs: Sequence[bytes]) -> list[bytes]:
    return _read_groups([run.upper() for run in runs], b"ABCDEFGHIJKLMNOPQRSTUVWXYZ234567", 8, 5)


def _read_base85(runs: Sequence[bytes]) -> list[bytes]:
    return _read_groups(runs, _LETTERS_85, 5, 4)


def _read_ascii85(runs: Sequence[bytes]) -> list[bytes]:
    return _read_groups(runs, bytes(range(33, 118)), 5, 4)


def _read_groups(runs: Sequence[bytes], alphabet: bytes, letters: int, size: int) -> list[bytes]:
    """Read runs of groups of `letters` digits of `alphabet`, each a number of `size` bytes; all runs at once."""
    # The library reads base32 and base85 letter by letter, in Python.
    padded = [run + alphabet[-1:] * (-len(run) % letters) for run in runs]
    values = bytes.maketrans(alphabet, bytes(range(len(alphabet))))
    digits = np.frombuffer(b"".join(padded).translate(values), np.uint8).reshape(-1, letters)  # (groups, letters)
    powers = np.array([len(alphabet) ** (letters - 1 - place) for place in range(letters)], np.uint64)
    numbers = (digits.astype(np.uint64) @ powers).astype(">u8")
    data = numbers.view(np.uint8).reshape(-1, 8)[:, 8 - size :].tobytes()
    read, start = [], 0
    for run, whole in zip(runs, padded, strict=True):
        read.append(data[start : start + len(run) * size // letters])
        start += len(whole) // letters * size
    return read


TEXT_85 = (Decoder(_BASE85, _read_base85, ratio=5 / 4), Decoder(_ASCII85, _read_ascii85, ratio=5 / 4))
_OF_LETTERS = Decoder(_LISTED, _read_listed)
# What base85 has among its letters looks like escapes, and a blank in a list of letters like texts put together.
AS_WRITTEN = (*TEXT_85, _OF_LETTERS)
DECODERS = (
    Decoder(r"[A-Za-z0-9+/_-]{20,}", _read_base64, beginnings=4, ratio=4 / 3),
    Decoder(r"[0-9A-Fa-f]{32,}", _read_hex, beginnings=2, ratio=2.0),
    Decoder(_HEX_LIST, _read_hex_list),
    Decoder(_BASE32, _read_base32, ratio=8 / 5),
    *TEXT_85,
    Decoder(rf"(?:{_CODE}[ ,;]{{1,3}}){{15,}}{_CODE}", _read_codes),
    Decoder(_QUOTED_TEXT, _read_quoted),
    Decoder(r"(?:^|\s)(?:[!-~] ){15,}[!-~]", _read_spelled),
    _OF_LETTERS,
    Decoder(_JOINED, _read_joined, ratio=2.0),
    Decoder(_BITS, _read_bits),
    Decoder(r"[01]{128,}", _read_all_bits, beginnings=8, ratio=8.0),
)
