"""Files that are there whole or not at all, and what is in them."""

from __future__ import annotations

import gzip
import hashlib
import math
import os
import shutil
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any, BinaryIO, cast

from hf_finetune.errors import NO_SPACE, NUMBER_OF_THE_SYSTEM, Problem
from hf_finetune.interruption import unwind_within


def is_of_kernel(path: Path) -> bool:
    """Whether `path` leads to what only looks like a file: reading /proc/kmsg waits for ever, and has no end."""
    return os.path.realpath(path).startswith(("/proc/", "/sys/", "/dev/"))


def hash_file(path: Path) -> str:
    """Compute the sha256 of a file's bytes as they are on disk: 64 hexadecimal digits."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def write_atomically(path: Path, content: bytes | str) -> None:
    """Write the whole content, text as UTF-8, or leave `path` as it was. Raises OSError."""
    with open_atomically(path) as file:
        file.write(content.encode() if isinstance(content, str) else content)


@contextmanager
def open_atomically(path: Path) -> Iterator[BinaryIO]:
    """Open a file that takes the place of `path` when the block ends; after an error, `path` stays as it was.

    Raises OSError. Processes may race: each writes a file of its own. Ctrl-C and SIGTERM leave no piece of it.
    """
    aside = path.with_name(f".{path.name}.{os.getpid()}.aside")
    with unwind_within():
        try:
            with aside.open("wb") as file:
                yield file
                file.flush()
                os.fsync(file.fileno())  # else a power cut may leave an empty file under the new name
            os.replace(aside, path)
            _sync_folder(path.parent)
        finally:
            aside.unlink(missing_ok=True)


@contextmanager
def open_rows_atomically(path: Path) -> Iterator[BinaryIO]:
    """The same for a file of rows, which is compressed where its name says so: rows.jsonl.gz, rows.jsonl.zst."""
    with open_atomically(path) as file:
        if path.suffix.lower() == ".gz":
            # Without the name and the time, the same rows are the same bytes.
            with gzip.GzipFile("", "wb", fileobj=file, mtime=0) as packed:
                yield cast(BinaryIO, packed)
        elif path.suffix.lower() == ".zst":
            import zstandard  # not before something is compressed by it

            with zstandard.ZstdCompressor().stream_writer(file, closefd=False) as packed:
                yield cast(BinaryIO, packed)
        else:
            yield file


@contextmanager
def make_parents(path: Path) -> Iterator[None]:
    """Make the folders above `path` that are missing; after an error, those that were made are taken away again.

    Raises OSError.
    """
    missing = [folder for folder in path.parents if not folder.exists()]
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        yield
    except BaseException:
        for folder in missing:  # the innermost comes first
            with suppress(OSError):  # it was never made, or another process has put something into it
                folder.rmdir()
        raise


@contextmanager
def fill_folder_atomically(path: Path) -> Iterator[Path]:
    """Yield the path of a folder to make and fill, which takes the place of `path` when the block ends.

    After an error, `path` stays as it was. Raises OSError.
    """
    aside = path.with_name(f".{path.name}.aside")
    shutil.rmtree(aside, ignore_errors=True)
    with unwind_within():
        try:
            yield aside
            for file in (each for each in aside.rglob("*") if each.is_file()):
                with file.open("rb") as written:
                    os.fsync(written.fileno())
            if path.exists():
                shutil.rmtree(path)
            os.replace(aside, path)
            _sync_folder(path.parent)
        finally:
            shutil.rmtree(aside, ignore_errors=True)


@contextmanager
def raise_write_errors() -> Iterator[None]:
    """Raise as `OSError` what safetensors and tokenizers raise where a file cannot be written."""
    try:
        yield
    except OSError:
        raise
    except Exception as problem:
        number = NUMBER_OF_THE_SYSTEM.search(str(problem))
        if number is None:
            raise
        raise OSError(int(number[1]), os.strerror(int(number[1]))) from problem


def explain_unwritable(path: Path, problem: OSError, remedy: str = "name a folder of yours") -> Problem:
    """Explain why `path`, which is as it was, cannot be written; `remedy` is that of one that belongs to others."""
    blocking = next((each for each in (path, *path.parents) if each.exists() and not each.is_dir()), None)
    if isinstance(problem, NotADirectoryError | FileExistsError) and blocking is not None:
        place = "is a file" if blocking == path else f"is below {blocking}, which is a file"
        return Problem(place, "name one in a folder", str(path))
    what = f"cannot be written ({problem.strerror or problem}); nothing is left of it"
    return Problem(what, "make room, or name another disk" if problem.errno in NO_SPACE else remedy, str(path))


def _sync_folder(folder: Path) -> None:
    """Put the names of a folder's files on the disk, where the file system can."""
    with suppress(OSError):  # Windows opens no folder
        descriptor = os.open(folder, os.O_RDONLY)
        try:
            os.fsync(descriptor)
        finally:
            os.close(descriptor)


def encode_non_finite(value: Any) -> Any:
    """`value` with null for floats that are not finite; tuples become lists."""
    # JSON has no NaN, and json.dumps writes one that other parsers refuse: {"loss": NaN} -> {"loss": null}. A text
    # would make a number of some runs a string in others; leaving the key out would read as 'not computed'.
    if isinstance(value, dict):
        return {key: encode_non_finite(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [encode_non_finite(item) for item in value]
    if isinstance(value, float) and not math.isfinite(value):
        return None
    return value
