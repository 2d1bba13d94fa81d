"""A path that leads to nothing, and the names that are near it."""

from __future__ import annotations

import os
from pathlib import Path

from hf_finetune.errors import suggest
from hf_finetune.privacy import shorten

MOST_NAMED = 6
MOST_SHOWN = 200


def suggest_path(path: str, otherwise: str = "check the path") -> str:
    """Suggest a remedy for a missing path: the closest name where it breaks off, or the nearest folder that exists."""
    if "://" in path:
        return "download it first: a file, a folder or a Hub data set id can be named"
    local = missing = Path(os.path.expanduser(path))
    # os.path and not pathlib, which raises for a name that is longer than file systems take.
    while not os.path.isdir(missing.parent):
        missing = missing.parent
    parent = missing.parent
    if os.path.islink(missing):
        return "it is a link that leads to nothing"
    try:
        names = [entry.name for entry in parent.iterdir() if entry.name != missing.name]
    except OSError:
        return otherwise
    if missing == local:
        # Of three letters no other is near: where a folder holds a few names, they are all said.
        few = sorted(name for name in names if name.isprintable() and not name.startswith("."))
        if parent != Path() and 0 < len(few) <= MOST_NAMED:
            otherwise = f"{parent} has {', '.join(few)}"
        return suggest(local.name, names, otherwise, show=lambda close: str(parent / close))
    # Of `run/sft` beside `runs/sft` the folder is what was mistyped.
    rest = local.relative_to(missing)
    there = [name for name in names if os.path.exists(parent / name / rest)]
    only = f"there is no folder {shorten(missing.name, MOST_SHOWN)}/ " + (
        "here" if parent == Path() else f"in {parent}"
    )
    return suggest(missing.name, there, only, show=lambda close: str(parent / close / rest))
