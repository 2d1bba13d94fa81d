"""What libraries in Rust write on standard error by themselves: held back, since one message says it."""

from __future__ import annotations

import os
import sys
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from tempfile import TemporaryFile

STANDARD_ERROR = 2
MOST_HELD = 2**20
PANIC = b"\nthread '"


@contextmanager
def hold_back_panics() -> Iterator[None]:
    """Write what is said on standard error inside the `with` behind it, without the words of a panic of Rust.

    They are written to the file descriptor, with names and texts of the file that was read, before Python knows of it.
    Keep it short: no progress is seen, and nothing is downloaded inside.
    """
    try:
        kept = os.dup(STANDARD_ERROR)
    except OSError:  # closed: nobody would read it
        yield
        return
    with TemporaryFile() as held:
        _flush()
        os.dup2(held.fileno(), STANDARD_ERROR)
        try:
            yield
        finally:
            _flush()
            os.dup2(kept, STANDARD_ERROR)
            os.close(kept)
            held.seek(0)
            # What a library logs before it panics stays; nothing but the panic and its place comes behind.
            _write(held.read(MOST_HELD).partition(PANIC)[0])


def _flush() -> None:
    with suppress(OSError, ValueError, AttributeError):  # full, closed, or none as under pythonw
        sys.stderr.flush()


def _write(said: bytes) -> None:
    while said:
        try:
            said = said[os.write(STANDARD_ERROR, said) :]
        except OSError:
            return
