"""The sources that a run file names -> the shards of a stream, in the order of each pass."""

from __future__ import annotations

import io
import logging
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import fsspec
import numpy as np

from hf_finetune.config.paths import is_glob, list_source_paths
from hf_finetune.config.sections import DataSection
from hf_finetune.data.reading.lines import ByteSource
from hf_finetune.data.reading.sources import resolve_sources
from hf_finetune.errors import DataError, Problem

logger = logging.getLogger(__name__)

BUFFER_BYTES = 2**20
# What to install for a protocol whose package is not a dependency (fsspec 2026.9 names it in an ImportError).
PACKAGES = {"s3": "s3fs", "s3a": "s3fs", "gs": "gcsfs", "gcs": "gcsfs", "az": "adlfs", "abfs": "adlfs"}


@dataclass(frozen=True, slots=True)
class RemoteFile:
    """A file behind a URL, as fsspec opens it."""

    filesystem: Any
    path: str

    def open(self, mode: Literal["rb"], /) -> io.BufferedReader:
        """Open it; raises OSError."""
        # Read ahead in pieces, as a stream is read; a compressed shard is asked for from its beginning.
        try:
            raw: Any = self.filesystem.open(self.path, mode, block_size=2**22, cache_type="readahead")
        except Exception as problem:  # each protocol has errors of its own: of aiohttp, botocore, httpx
            if isinstance(problem, OSError):
                raise
            raise OSError(f"{type(problem).__name__}: {problem}") from problem
        return io.BufferedReader(_AsOSError(raw), BUFFER_BYTES)


class _AsOSError(io.RawIOBase):
    """What fsspec opens, as a raw file: whatever its protocol raises becomes an OSError."""

    def __init__(self, opened: Any) -> None:
        self.opened = opened

    def readable(self) -> bool:
        return True

    def seekable(self) -> bool:
        return bool(self.opened.seekable())

    def seek(self, offset: int, whence: int = 0, /) -> int:
        return int(self.opened.seek(offset, whence))

    def tell(self) -> int:
        return int(self.opened.tell())

    def readinto(self, buffer: Any, /) -> int:
        """Read into `buffer`; raises OSError."""
        try:
            found = self.opened.read(len(buffer))
        except OSError:
            raise
        except Exception as problem:
            raise OSError(f"{type(problem).__name__}: {problem}") from problem
        buffer[: len(found)] = found
        return len(found)

    def close(self) -> None:
        self.opened.close()
        super().close()


@dataclass(frozen=True, slots=True)
class Shard:
    """One file of a stream."""

    shown: str
    """As the user wrote it."""
    path: ByteSource
    size: int | None
    """Bytes; None where a server does not say."""
    stamp: str = ""
    """What changes with its content, as far as who keeps it says: a time, an ETag, a commit."""


def is_url(path: str) -> bool:
    """Whether a source is read through fsspec."""
    return "://" in path


def list_shards(data: DataSection) -> list[Shard]:
    """List the shards of `data.train`, of each source in the order of their names.

    Raises `DataError` for a source that matches nothing, is named twice, or cannot be reached.
    """
    shards: list[Shard] = []
    for path in list_source_paths(data.train):
        if is_url(path):
            shards += _list_remote(path)
        else:
            local = resolve_sources(path, "train", data.format)
            for file in local:
                status = file.path.stat()
                shards.append(Shard(file.shown, file.path, status.st_size, str(status.st_mtime_ns)))
    counted = Counter(each.shown for each in shards)
    if twice := sorted(shown for shown, times in counted.items() if times > 1):
        raise DataError(
            [Problem("is named twice", "name it once", shown, key="data.train", code="HF051") for shown in twice]
        )
    return shards


def _list_remote(url: str) -> list[Shard]:
    # Listed once: what comes while the run goes on is none of its shards.
    protocol = url.partition("://")[0]
    try:
        filesystem, path = fsspec.url_to_fs(url)
    except (ImportError, ValueError) as problem:
        package = PACKAGES.get(protocol)
        remedy = f"install it: `pip install {package}`" if package else "write hf://, s3://, https:// or a local path"
        what = f"{protocol}:// is read by a package that is not here" if package else f"{problem}"
        code = "HF711" if package else "HF072"
        raise DataError(Problem(what, remedy, url, key="data.train", code=code)) from problem
    try:
        found = filesystem.glob(path) if is_glob(path) else filesystem.find(path) or [path]
        names = sorted(map(str, found))
        facts = {name: filesystem.info(name) for name in names}
    except Exception as problem:  # each protocol has errors of its own
        what = f"cannot be reached ({_shorten(problem)})"
        raise DataError(
            Problem(what, "check the address, the network and the login", url, key="data.train", code="HF072")
        ) from None
    if not names:
        raise DataError(Problem("no file matches", "check the pattern", url, key="data.train", code="HF055"))
    return [
        Shard(filesystem.unstrip_protocol(name), RemoteFile(filesystem, name), each.get("size"), _read_stamp(each))
        for name, each in facts.items()
    ]


def _read_stamp(facts: dict[str, Any]) -> str:
    known = ("ETag", "etag", "blob_id", "mtime", "LastModified", "last_modified", "created")
    return next((str(facts[name]) for name in known if facts.get(name)), "")


def _shorten(problem: Exception) -> str:
    lines = str(problem).strip().splitlines()
    return f"{type(problem).__name__}: {lines[0][:200]}" if lines else type(problem).__name__


def check_there(shard: Shard) -> None:
    """Raise `DataError` where a shard has vanished since the run began."""
    path: Any = shard.path
    there = path.is_file() if isinstance(path, Path) else path.filesystem.exists(path.path)
    if not there:
        what = "the shard is not there any more"
        raise DataError(Problem(what, "put it back, and type the same command again", shard.shown, code="HF902"))


def order_shards(count: int, seed: int, pass_number: int) -> Sequence[int]:
    """The shards in the order of a pass, each once."""
    order: list[int] = np.random.default_rng([seed, pass_number]).permutation(count).tolist()
    return order
