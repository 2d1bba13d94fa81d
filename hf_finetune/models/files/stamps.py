"""Whether the files of a model's folder are still those that the run was checked with, once they are loaded."""

from __future__ import annotations

import os
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path

from hf_finetune.errors import ModelError, Problem

Stamps = dict[str, tuple[int, int, int]]
"""Size, time and inode by the name of a file."""

_ENDINGS = (".json", ".safetensors", ".jinja", ".txt", ".model")

_stamps: dict[str, Stamps] = {}
"""Of the folders that this run reads."""


def keep_stamps(names: Iterable[str | None]) -> None:
    """From here on hold these folders to the files that they have now; what the Hub has is held to a commit."""
    _stamps.clear()
    _stamps.update({name: _read_stamps(name) for name in names if name is not None and os.path.isdir(name)})


@contextmanager
def refuse_changed_files(name: str | None) -> Iterator[None]:
    """Load the folder `name` inside the `with`: raises `ModelError` where its files changed since `keep_stamps`.

    That is also what is said where the loading fails of it. A folder without stamps is taken as it is.
    """
    try:
        yield
    except Exception:
        _check_stamps(name)
        raise
    _check_stamps(name)


def _check_stamps(name: str | None) -> None:
    before = _stamps.get(name or "")
    if before is None:
        return
    now = _read_stamps(str(name))
    changed = sorted(file for file in before.keys() | now.keys() if before.get(file) != now.get(file))
    if changed:
        what = f"{', '.join(changed[:3])} changed while the run was prepared"
        raise ModelError(
            Problem(what, "begin again when the folder is complete: nothing was trained", path=name, code="HF509")
        )


def _read_stamps(folder: str) -> Stamps:
    files = (path for path in Path(folder).iterdir() if path.suffix in _ENDINGS) if os.path.isdir(folder) else ()
    stamps = {}
    for path in files:
        try:
            status = path.stat()
        except OSError:  # gone since it was listed
            continue
        stamps[path.name] = (status.st_size, status.st_mtime_ns, status.st_ino)
    return stamps
