"""Whose a folder is: what somebody else has put there is never written over."""

from __future__ import annotations

import json
import re
from pathlib import Path

from hf_finetune.errors import ConfigError, Problem

MANIFEST = "manifest.json"
CARD = "README.md"
CARD_MARKER = "<!-- Written by hf-finetune, which writes it anew until this line is removed. -->"

# Of every manifest that a run of ours has opened; web pages have a file of that name, too.
_OF_A_MANIFEST = {"data", "versions", "launch"}
# What stands in a folder that nobody has put anything into: of a file system, of a desktop, of our own killed writing.
_NOBODYS = re.compile(r"lost\+found|\.DS_Store|\..+\.aside")
_CHECKPOINT = re.compile(r"checkpoint-\d+")
# What `merge` writes, by suffix or by name.
_OF_A_MODEL = re.compile(r".*\.(?:json|safetensors|jinja|py|model)|README\.md|report\.html|merges\.txt|vocab\.txt")


def foreign_entry(folder: Path, *, resuming: bool = False) -> str | None:
    """What in `folder` no run of ours has left there, by its name; None where the folder is ours, empty or missing.

    A run that failed leaves its manifest, or nothing: it may be started again. Where one is gone on with,
    checkpoints alone will do, as they are when they were copied to another machine.
    """
    names = _names(folder)
    if MANIFEST in names and is_run_folder(folder):
        return None
    foreign = [name for name in names if not (_NOBODYS.fullmatch(name) or (resuming and _CHECKPOINT.fullmatch(name)))]
    return foreign[0] if foreign else None


def is_run_folder(folder: Path) -> bool:
    """Whether a run of ours has opened its manifest there."""
    try:
        manifest = json.loads((folder / MANIFEST).read_text(encoding="utf-8"))
    except (OSError, ValueError, RecursionError):
        return False
    return isinstance(manifest, dict) and manifest.keys() >= _OF_A_MANIFEST


def check_run_folder(output_dir: str, folder: Path, *, resuming: bool) -> None:
    """Raise `ConfigError` where `folder`, which the run file calls `output_dir`, holds what no run of ours has left."""
    if (foreign := foreign_entry(folder, resuming=resuming)) is not None:
        raise ConfigError(Problem(*not_ours(output_dir, foreign), key="output_dir"))


def not_ours(output_dir: str, foreign: str) -> tuple[str, str]:
    """What is wrong with a folder that holds `foreign`, and what to do."""
    what = f"{output_dir} holds {foreign}, and is no run folder of hf-finetune"
    return what, "name a new folder, or an empty one: a run overwrites what is in its own"


def check_replaceable(output: str, *, overwrite: bool) -> None:
    """Raise `ConfigError` where a merged model may not take the place of `output`.

    A folder is replaced as a whole: only one that holds nothing but a merged model of ours is.
    """
    folder = Path(output)
    names = [name for name in _names(folder) if not _NOBODYS.fullmatch(name)]
    if folder.is_file() or (names and not overwrite):
        raise ConfigError(Problem("is there already", "name another folder, or allow it with --overwrite", path=output))
    if names and (foreign := _not_of_a_merged_model(folder, names)) is not None:
        what = f"holds {foreign}, and is no model that hf-finetune has merged: even with --overwrite it stays"
        raise ConfigError(Problem(what, "name another folder, or remove this one yourself", path=output))


def _not_of_a_merged_model(folder: Path, names: list[str]) -> str | None:
    for name in names:
        if not _OF_A_MODEL.fullmatch(name) or name == MANIFEST or not (folder / name).is_file():
            return name
    try:
        ours = CARD_MARKER in (folder / CARD).read_text(encoding="utf-8", errors="replace")
    except OSError:
        ours = False
    return None if ours else names[0]


def _names(folder: Path) -> list[str]:
    """Of everything in the folder, sorted; none where there is no folder."""
    try:
        return sorted(entry.name for entry in folder.iterdir())
    except (FileNotFoundError, NotADirectoryError):
        return []
    except OSError as problem:  # what cannot be listed may hold anything
        return [f"what cannot be listed ({problem.strerror})"]
