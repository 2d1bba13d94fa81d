"""The records that this process has opened its runs with, for where they vanish from the folder meanwhile."""

from __future__ import annotations

import os
from dataclasses import dataclass
from pathlib import Path
from typing import Any


@dataclass(frozen=True)
class Opened:
    """What was written before training."""

    manifest: dict[str, Any]
    run_file: str
    """The content of run.yaml."""


_opened: dict[str, Opened] = {}


def remember(folder: Path, opened: Opened) -> None:
    """Keep what the run in `folder` was opened with."""
    _opened[os.path.realpath(folder)] = opened


def recall(folder: Path) -> Opened | None:
    """What the run in `folder` was opened with; None where this process has opened none."""
    return _opened.get(os.path.realpath(folder))


def forget(folder: Path) -> None:
    """Another run begins in `folder`."""
    _opened.pop(os.path.realpath(folder), None)
