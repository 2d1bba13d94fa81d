"""Prints of a run's rows, by which later rows are recognized: in its folder, and never pushed.

Hashes of 64 bits under a key. It is drawn once for a user and kept in the cache, so that the rows of two runs can be
compared, and in each file beside the prints, so that a folder that is moved can still be asked. The file is mapped, not
read: 100 million rows have 800 MB of prints.
"""

from __future__ import annotations

import logging
import math
import os
import secrets
import struct
import zipfile
import zlib
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from hashlib import blake2b
from pathlib import Path
from typing import Any, BinaryIO

import numpy as np
import numpy.typing as npt

from hf_finetune.cache.arrays import iterate_pieces
from hf_finetune.cache.holding import find_or_make
from hf_finetune.files import open_atomically, open_private, write_atomically
from hf_finetune.folders import ROW_PRINTS, STREAM_PRINTS

logger = logging.getLogger(__name__)

Hashes = npt.NDArray[np.uint64]

KEY_BYTES = 32
_ROWS = "rows/"
_ALIGNMENT = 64
# Of each part of a stream: what it is, its number, how many hashes follow, and their checksum.
_PART = struct.Struct("<8sQQQ")
_MAGIC = b"hfprints"
# Of https://pkware.cachefly.net/webdocs/casestudies/APPNOTE.TXT, 4.3.7 and 4.5: a kind and a length before each extra
# field, the header in front of a part, and the field of its sizes in 64 bits, which `zipfile` adds to ours.
_EXTRA_HEADER = struct.Struct("<HH")
_EXTRA_KIND = 0xFFFF
_HEADER, _ZIP64_FIELD = 30, 20


@dataclass(frozen=True)
class RowPrints:
    """What a run keeps of its rows: of those that were trained the texts, of all others each row."""

    key: bytes
    texts: Hashes
    """Of the text of each training row, whatever its case, white space and label; sorted, without repeats."""
    ngrams: Hashes
    """Of runs of 13 words of training rows, the smallest so many; sorted, without repeats."""
    rows: Mapping[str, Hashes] = field(default_factory=dict)
    """By split, but train: of each row with all its fields, (rows,), in their order."""
    parts: tuple[Hashes, ...] = ()
    """Of a run that streams, the texts of each part, as `texts` has them; that is empty then."""


def draw_key(cache: Path) -> bytes:
    """Return the key of this user from the file `cache`, drawn and written there where there is none.

    Of several processes one draws it. A key that cannot be kept serves one run.
    """
    drawn = secrets.token_bytes(KEY_BYTES)

    def keep() -> bytes:
        write_atomically(cache, drawn, private=True)
        return drawn

    try:
        return find_or_make(cache, lambda: _read_key(cache), keep)
    except OSError as problem:
        logger.debug("the key of row prints is not kept: %s", problem)
        return drawn


def _read_key(cache: Path) -> bytes | None:
    try:
        key = cache.read_bytes()
    except OSError:
        return None
    return key if len(key) == KEY_BYTES else None


def key_hashes(hashes: Hashes, key: bytes) -> Hashes:
    """Hash each of `hashes`, (rows,), under `key`."""
    # One by one: 10 million rows take some seconds.
    digests = b"".join(blake2b(each.tobytes(), digest_size=8, key=key).digest() for each in hashes.astype("<u8"))
    return np.frombuffer(digests, dtype="<u8").astype(np.uint64)


def write_row_prints(folder: Path, prints: RowPrints) -> None:
    """Write `prints` into a run folder, for its owner alone. Raises OSError."""
    arrays: dict[str, Any] = {
        "key": np.frombuffer(prints.key, np.uint8),
        "texts": prints.texts,
        "ngrams": prints.ngrams,
    }
    write_arrays(folder / ROW_PRINTS, arrays | {_ROWS + split: hashes for split, hashes in prints.rows.items()})


def read_row_prints(folder: Path, *, parts: bool = True) -> RowPrints | None:
    """Map the prints of a run folder; None where there are none, or, with a warning, where they are torn.

    Without `parts` those of a stream's parts are left out, which are read whole for their checksums.
    """
    path = folder / ROW_PRINTS
    try:
        found = map_arrays(path)
        rows = {name.removeprefix(_ROWS): _check(each) for name, each in found.items() if name.startswith(_ROWS)}
        texts = tuple(part for _, part in _iterate_parts(folder / STREAM_PRINTS)) if parts else ()
        key = found["key"].tobytes() if found["key"].nbytes == KEY_BYTES else b""
        if not key:
            raise ValueError("it holds no key")
        return RowPrints(key, _check(found["texts"]), _check(found["ngrams"]), rows, texts)
    except FileNotFoundError:
        return None
    except UNREADABLE as problem:
        what = (
            "%s holds no prints of rows that can be read (%s): by it nobody can tell which rows were trained; put it "
        )
        what += "back as the run wrote it, or go on with the run, which writes it anew"
        logger.warning(what, path, type(problem).__name__, extra={"code": "HF092"})
        return None


def append_row_prints(folder: Path, number: int, texts: Hashes) -> None:
    """Append the texts of part `number` of a stream, sorted and without repeats, unless they are there. Raises OSError.

    A piece that a killed process has left at the end is cut off.
    """
    # Appended and never written anew: the prints of a thousand million rows have 8 GB.
    path, end = folder / STREAM_PRINTS, 0
    for known, part in _iterate_parts(path, check=False):
        if known == number:  # of a run that was resumed in the middle of the part
            return
        end += _PART.size + part.nbytes
    content = texts.astype("<u8").tobytes()
    with open(path, "ab", opener=open_private) as file:
        file.truncate(end)
        file.seek(end)
        file.write(_PART.pack(_MAGIC, number, len(texts), zlib.crc32(content)) + content)


def _iterate_parts(path: Path, *, check: bool = True) -> Iterator[tuple[int, Hashes]]:
    """Yield number and texts of each part of a file of `append_row_prints`, mapped; up to the first that is torn."""
    if not path.is_file():
        return
    with path.open("rb") as file:
        while len(head := file.read(_PART.size)) == _PART.size:
            magic, number, count, checksum = _PART.unpack(head)
            start, size = file.tell(), 8 * count
            # Readers look at the sums; who appends walks from header to header.
            whole = magic == _MAGIC and start + size <= path.stat().st_size
            if not whole or (check and _sum_up(file, size) != checksum):
                logger.warning(
                    "%s is torn: the prints of its first %d bytes are read",
                    path.name,
                    start - _PART.size,
                    extra={"code": "HF092"},
                )
                return
            file.seek(start + size)
            yield number, np.memmap(path, "<u8", "r", start, (count,)) if count else np.empty(0, np.uint64)


def _sum_up(file: BinaryIO, size: int) -> int:
    checksum = 0
    while size and (some := file.read(min(size, 2**20))):
        checksum, size = zlib.crc32(some, checksum), size - len(some)
    return checksum


# What `map_arrays` raises for a file that somebody has torn or changed, beside the missing name.
UNREADABLE = (OSError, ValueError, KeyError, EOFError, zipfile.BadZipFile)


def write_arrays(path: Path, arrays: Mapping[str, npt.NDArray[Any]]) -> None:
    """Write arrays as `numpy.savez` does, for their owner alone, in pieces, and where they can be mapped.

    Raises OSError.
    """
    with open_atomically(path, private=True) as file, zipfile.ZipFile(file, "w") as packed:
        for name, array in arrays.items():
            part = zipfile.ZipInfo(f"{name}.npy")
            part.file_size = array.nbytes + _ALIGNMENT  # decides whether it takes a ZIP64 header
            part.extra = _pad(file.tell(), part)
            with packed.open(part, "w", force_zip64=True) as content:
                np.lib.format.write_array_header_1_0(content, np.lib.format.header_data_from_array_1_0(array))
                for _, piece in iterate_pieces(array):
                    content.write(np.ascontiguousarray(piece).data)


def _pad(start: int, part: zipfile.ZipInfo) -> bytes:
    """An extra field of a part's header, so that what follows the header stands at a multiple of 64 bytes.

    numpy copies an array that is not aligned whenever it searches it.
    """
    header = _HEADER + len(part.filename) + _ZIP64_FIELD
    missing = -(start + header + _EXTRA_HEADER.size) % _ALIGNMENT
    return _EXTRA_HEADER.pack(_EXTRA_KIND, missing) + bytes(missing)


def map_arrays(path: Path) -> dict[str, npt.NDArray[Any]]:
    """Map the arrays of `write_arrays`, or of `numpy.savez`, once their checksums have been looked at, in a stream.

    Raises FileNotFoundError, and one of `UNREADABLE` where the file is not whole.
    """
    # A pipe would be waited for.
    if path.exists() and not path.is_file():
        raise ValueError("it is no file")
    try:
        with zipfile.ZipFile(path) as packed:
            _check_parts(packed, path.stat().st_size)
            with path.open("rb") as file:
                # Once: each map keeps a file open, and a program that reads many runs may have a thousand of them.
                whole = np.memmap(file, np.uint8, "r")
                return {part.filename.removesuffix(".npy"): _map_array(file, part, whole) for part in packed.infolist()}
    except (struct.error, NotImplementedError, RuntimeError, OverflowError, MemoryError, TypeError) as problem:
        raise ValueError("it is written as no run writes it") from problem


def _check_parts(packed: zipfile.ZipFile, size: int) -> None:
    """Raise ValueError or BadZipFile where the parts of a file of this size are not as `write_arrays` leaves them."""
    # What is compressed may be of any size, and so may parts that are named twice, each of which is read.
    if any(part.compress_type != zipfile.ZIP_STORED for part in packed.infolist()):
        raise ValueError("it is compressed")
    if sum(part.file_size for part in packed.infolist()) > size:
        raise ValueError("its parts overlap")
    if packed.testzip() is not None:
        raise zipfile.BadZipFile("it has changed")


def _map_array(file: BinaryIO, part: zipfile.ZipInfo, whole: npt.NDArray[np.uint8]) -> npt.NDArray[Any]:
    # The header in front of the content has a name and an extra field, each with its length at the end of the header.
    file.seek(part.header_offset + _HEADER - 4)
    name, extra = struct.unpack("<HH", file.read(4))
    file.seek(name + extra, os.SEEK_CUR)
    begin = file.tell()
    if np.lib.format.read_magic(file) != (1, 0):
        raise ValueError("it is of another version")
    shape, _, dtype = np.lib.format.read_array_header_1_0(file)
    size = math.prod(shape) * dtype.itemsize
    if dtype.hasobject or file.tell() - begin + size != part.file_size:
        raise ValueError("it holds no array")
    if not size:  # nothing can be viewed as numbers
        return np.empty(shape, dtype)
    array: npt.NDArray[Any] = whole[file.tell() : file.tell() + size].view(dtype).reshape(shape)
    return array


def _check(hashes: npt.NDArray[np.generic]) -> Hashes:
    if hashes.dtype != np.uint64 or hashes.ndim != 1:
        raise ValueError("it holds no hashes")
    return hashes.astype(np.uint64, copy=False)
