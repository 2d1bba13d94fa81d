"""The sha256 of a data file, computed once for as long as the system says that the file is the same."""

from __future__ import annotations

import logging
import os
import re
import time
from pathlib import Path

from hf_finetune.cache.entries import mark_used
from hf_finetune.cache.holding import find_or_make
from hf_finetune.cache.keys import compute_cache_key, place_in_cache
from hf_finetune.files import hash_file, write_atomically

logger = logging.getLogger(__name__)

LARGE = 2**24
"""Bytes. Of less, a hash takes no longer than to look for it."""
# A file that is written twice within one tick of its clock looks the same; the coarsest in use, of FAT, ticks in 2 s.
CLOCK_TICK_S = 3.0


def hash_data_file(path: Path) -> str:
    """The sha256 of a file: 64 hexadecimal digits. Of a large one it is kept in the cache, by what `stat` says.

    That is its path, device, inode, size, and the times of its content and of its inode: the latter nobody can set.
    """
    status = path.stat()
    if status.st_size < LARGE:
        return hash_file(path)
    try:
        kept = place_in_cache(f"sha256-{compute_cache_key(_describe(path, status))}.txt")
    except OSError:  # the rows are not kept either, which their reader says
        return hash_file(path)
    if (known := _read_hash(kept)) is not None:
        mark_used(kept)
        return known
    if time.time() - max(status.st_mtime, status.st_ctime) <= CLOCK_TICK_S:
        return hash_file(path)
    try:
        return find_or_make(kept, lambda: _read_hash(kept), lambda: _keep_hash(path, status, kept))
    except OSError as problem:  # as on a full disk: what is written next says so
        logger.debug("the sha256 of a file is not kept: %s", problem)
        return hash_file(path)


def _read_hash(kept: Path) -> str | None:
    try:
        known = kept.read_text(encoding="ascii")
    except (OSError, UnicodeDecodeError):
        return None
    return known if re.fullmatch("[0-9a-f]{64}", known) else None


def _keep_hash(path: Path, status: os.stat_result, kept: Path) -> str:
    """Hash a file and write that, unless it has changed meanwhile. Raises OSError."""
    digest = hash_file(path)
    if _describe(path, path.stat()) == _describe(path, status):
        write_atomically(kept, digest, private=True)
    return digest


def _describe(path: Path, status: os.stat_result) -> list[str | int]:
    times = [status.st_mtime_ns, status.st_ctime_ns]
    return [os.path.realpath(path), status.st_dev, status.st_ino, status.st_size, *times]
