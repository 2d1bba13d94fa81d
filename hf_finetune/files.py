"""Files that are there whole or not at all, and what is in them."""

from __future__ import annotations

import gzip
import hashlib
import math
import os
import re
import shutil
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from functools import partial
from pathlib import Path
from typing import Any, BinaryIO, cast

import psutil

from hf_finetune.errors import (
    NO_SPACE,
    NUMBER_OF_THE_SYSTEM,
    Problem,
    advise_unless_limited,
    advise_writing,
    find_writing_code,
)
from hf_finetune.interruption import unwind_within
from hf_finetune.privacy import MAX_YAML_BYTES, MAX_YAML_DEPTH, has_open_brackets

# Aliases can make a short file denote billions of values ("billion laughs"): ten levels of ten aliases each.
MAX_YAML_VALUES = 10_000
MAX_HEADER_BYTES = 100_000_000
"""Of safetensors, as the library (0.8) has it."""


def is_of_kernel(path: Path) -> bool:
    """Whether `path` leads to what only looks like a file: reading /proc/kmsg waits for ever, and has no end."""
    return os.path.realpath(path).startswith(("/proc/", "/sys/", "/dev/"))


def hash_file(path: Path) -> str:
    """Compute the sha256 of a file's bytes as they are on disk: 64 hexadecimal digits."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def write_atomically(path: Path, content: bytes | str, *, private: bool = False) -> None:
    """Write the whole content, text as UTF-8, or leave `path` as it was; `private` as `open_atomically` has it.

    Raises OSError.
    """
    with open_atomically(path, private=private) as file:
        file.write(content.encode() if isinstance(content, str) else content)


@contextmanager
def open_atomically(path: Path, *, private: bool = False) -> Iterator[BinaryIO]:
    """Open a file that takes the place of `path` when the block ends; after an error, `path` stays as it was.

    A `private` one, which holds rows or what tells of them, is its owner's alone; others are as the umask has it.
    Raises OSError. Processes may race: each writes a file of its own. Ctrl-C and SIGTERM leave no piece of it.
    """
    aside = path.with_name(f".{path.name}.{os.getpid()}.aside")
    with unwind_within():
        try:
            aside.unlink(missing_ok=True)  # a piece of a process that was killed, or a link that others have put there
            with open(aside, "xb", opener=open_private if private else None) as file:
                yield file
                file.flush()
                os.fsync(file.fileno())  # else a power cut may leave an empty file under the new name
            os.replace(aside, path)
            sync_folder(path.parent)
        finally:
            aside.unlink(missing_ok=True)


def open_private(name: str, flags: int) -> int:
    """Open a file, which is made for its owner alone where it is missing: the `opener` of `open`."""
    return os.open(name, flags, 0o600)


def make_private_folder(folder: Path) -> Path:
    """Make a folder, where it is missing, that this user alone may read; return it. Raises OSError.

    Where another user has one of that name, as in a cache that several share, ours has the number of ours behind it.
    """
    folder.mkdir(mode=0o700, parents=True, exist_ok=True)
    if hasattr(os, "getuid") and folder.stat().st_uid != os.getuid():
        folder = folder.with_name(f"{folder.name}-{os.getuid()}")
        folder.mkdir(mode=0o700, exist_ok=True)
    if folder.stat().st_mode & 0o077:
        folder.chmod(0o700)  # an older version made it as the umask has it
    return folder


@contextmanager
def open_rows_atomically(path: Path) -> Iterator[BinaryIO]:
    """The same for a private file of rows, compressed where its name says so: rows.jsonl.gz, rows.jsonl.zst."""
    with open_atomically(path, private=True) as file:
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
def fill_folder_atomically(path: Path, check: Callable[[], None] = lambda: None) -> Iterator[Path]:
    """Yield the path of a folder to make and fill, which takes the place of `path` when the block ends.

    `check` is called before that, for somebody may have put something there meanwhile. After an error, `path` stays as
    it was; a link to a folder stays a link. Raises OSError, and what `check` raises.
    """
    path = Path(os.path.realpath(path))
    _remove_left(path)
    aside = path.with_name(f".{path.name}.{os.getpid()}.aside")
    with unwind_within():
        try:
            yield aside
            check()
            for file in (each for each in aside.rglob("*") if each.is_file()):
                sync_file(file)
            _exchange(path, aside)
        finally:
            shutil.rmtree(aside, ignore_errors=True)


def _exchange(path: Path, aside: Path) -> None:
    """Let the folder `aside` take the place of `path`. Raises OSError, and leaves `path` as it was then."""
    old = aside.with_suffix(".old.aside")
    # Renamed and not removed: a kill in the middle of a removal would leave half a folder under the name.
    if path.exists():
        os.replace(path, old)
    try:
        os.replace(aside, path)
    except OSError:
        if old.exists():
            os.replace(old, path)
        raise
    sync_folder(path.parent)
    shutil.rmtree(old, ignore_errors=True)


def _remove_left(path: Path) -> None:
    """Remove what processes that were killed have left of a folder that was to take the place of `path`.

    What stood there, and was moved away for it, gets its name back where nothing has it.
    """
    named = re.compile(rf"\.{re.escape(path.name)}\.(\d+)\.(old\.)?aside")
    for folder in sorted(path.parent.iterdir()) if path.parent.is_dir() else ():
        found = named.fullmatch(folder.name)
        if found is None or psutil.pid_exists(int(found[1])):
            continue
        if found[2] and not os.path.lexists(path):
            os.replace(folder, path)
        else:
            shutil.rmtree(folder, ignore_errors=True)


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


def find_blocking(path: Path) -> Path | None:
    """What stands where a folder would have to be, for `path` to be one: itself, or one above it."""
    return next((each for each in (path, *path.parents) if os.path.exists(each) and not os.path.isdir(each)), None)


def explain_unwritable(path: Path, problem: OSError, remedy: str = "name a folder of yours") -> Problem:
    """Explain why `path`, which is as it was, cannot be written; `remedy` is that of one that belongs to others."""
    blocking = find_blocking(path)
    if isinstance(problem, NotADirectoryError | FileExistsError) and blocking is not None:
        place = "is a file" if blocking == path else f"is below {blocking}, which is a file"
        return Problem(place, "name one in a folder", str(path), code="HF706")
    what = f"cannot be written ({problem.strerror or problem}); nothing is left of it"
    # Of what is not allowed the remedy of the caller is the better one: it knows whose the folder is.
    advise = advise_writing if problem.errno in NO_SPACE else partial(advise_unless_limited, otherwise=remedy)
    return Problem(what, advise(problem.errno), str(path), code=find_writing_code(problem.errno))


def sync_file(path: Path) -> None:
    """Put the content of a file on the disk. Raises OSError."""
    with path.open("rb") as file:
        os.fsync(file.fileno())


def sync_folder(folder: Path) -> None:
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


def read_bounded_yaml(text: str) -> Any:
    """Read a YAML document that others have written as plain values, within the bounds of a run file.

    Raises ValueError, whose text says what is wrong with it.
    """
    import yaml  # here, for `hf-finetune --help` must not wait for it

    if len(text.encode("utf-8", "surrogatepass")) > MAX_YAML_BYTES:
        raise ValueError(f"is larger than {MAX_YAML_BYTES // 1024} KiB")
    if has_open_brackets(text):
        raise ValueError(f"is nested more than {MAX_YAML_DEPTH} levels deep")
    try:
        loader = yaml.SafeLoader(text)
        root = loader.get_single_node()
        if root is None:
            return None
        _check_size(root)
        return loader.construct_document(root)
    except (yaml.YAMLError, RecursionError) as problem:
        raise ValueError("is not YAML") from problem


def _check_size(root: Any) -> None:
    """Raise ValueError where `root`, with each alias written out, is deeper or has more values than a run file may."""
    values = 0
    rest: list[tuple[Any, int]] = [(root, 0)]
    while rest:
        node, depth = rest.pop()
        values += 1
        if values > MAX_YAML_VALUES:
            raise ValueError(f"has more than {MAX_YAML_VALUES:,} values; are anchors repeated in it?")
        if depth > MAX_YAML_DEPTH:
            raise ValueError(f"is nested more than {MAX_YAML_DEPTH} levels deep")
        if node.id == "mapping":
            rest += [(part, depth + 1) for pair in node.value for part in pair]
        elif node.id == "sequence":
            rest += [(item, depth + 1) for item in node.value]
