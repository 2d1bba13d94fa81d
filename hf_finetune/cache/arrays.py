"""Arrays of more numbers than memory may hold: in files that are mapped, and walked piece by piece."""

from __future__ import annotations

import mmap
import sys
import tempfile
from collections.abc import Iterable, Iterator
from typing import Any, TypeVar

import numpy as np
import numpy.typing as npt

from hf_finetune.cache.keys import place_in_cache

PIECE = 2**16
"""Numbers of an array that are looked at together."""

_Number = TypeVar("_Number", bound=np.generic)


def iterate_pieces(array: npt.NDArray[_Number]) -> Iterator[tuple[int, npt.NDArray[_Number]]]:
    """Yield an array in pieces, each with the place of its first number; of a mapped one they are copies.

    Pages of a mapped file stay with the process for as long as the system has room: those behind are given back.
    """
    for start in range(0, len(array), PIECE):
        piece = array[start : start + PIECE]
        yield start, np.array(piece) if isinstance(array, np.memmap) else piece
        give_back_pages(array)


def give_back_pages(array: npt.NDArray[Any]) -> None:
    """Take the pages of a mapped array out of the memory of this process; they are read again where they are needed."""
    mapped = getattr(array, "_mmap", None)
    if isinstance(mapped, mmap.mmap):
        give_back(mapped)


def give_back(mapped: mmap.mmap) -> None:
    """Take the pages of a mapped file, which was not written through the map, out of the memory of this process."""
    if sys.platform != "win32":
        mapped.madvise(mmap.MADV_DONTNEED)


def map_numbers(pieces: Iterable[npt.NDArray[_Number]], kind: type[_Number]) -> npt.NDArray[_Number]:
    """Write `pieces` into a file beside the cache's that has no name and is gone with the process, and map it.

    Raises OSError, as on a full disk.
    """
    # Written, and not through the map: where a disk is full, that would end the process by SIGBUS.
    with tempfile.TemporaryFile(dir=place_in_cache("numbers").parent) as file:
        count = sum(file.write(np.ascontiguousarray(piece, kind).data) for piece in pieces) // np.dtype(kind).itemsize
        file.flush()
        return np.memmap(file, kind, "r", shape=(count,)) if count else np.empty(0, kind)
