"""Recipes, configurations, templates and pages: where they are in a checkout and a wheel, and how to copy them."""

from __future__ import annotations

import os
from collections.abc import Iterable, Mapping, Sequence
from contextlib import suppress
from pathlib import Path

from hf_finetune.errors import CannotWriteError, ConfigError, Problem
from hf_finetune.files import explain_unwritable
from hf_finetune.folders import check_new_folder, leads_out

PACKAGE = Path(__file__).resolve().parent.parent
# Messages and comments of run files name pages of docs/.
FOLDERS = ("recipes", "accelerate_configs", "data_templates", "docs")
_MOST_NAMED = 5


def find_shipped(name: str) -> Path:
    """Find the folder (or file) `name` of the project: inside the installed package, else in the checkout."""
    # A wheel has them in hf_finetune/shipped/: a top-level `recipes` in site-packages could be anybody's.
    installed = PACKAGE / "shipped" / name
    return installed if installed.exists() else PACKAGE.parent / name


def find_project_file(folder: str, name: str) -> Path:
    """Find a recipe or configuration: the user's own below the current folder (`hf-finetune init`), else ours."""
    own = Path(folder) / name
    return own if own.is_file() else find_shipped(folder) / name


def init_project(target: Path, *, overwrite: bool = False) -> list[Path]:
    """Copy recipes, configurations, templates and pages into `target`, and return the files written.

    The folder is new or empty, or, with `overwrite`, one in use: files are put beside what is there, and ones of the
    same names that are others stay. `ConfigError` says how many those are, and none is copied then. Raises
    `CannotWriteError` if the folder cannot be written, which is then as it was.
    """
    copies = {
        path: target / name / path.relative_to(find_shipped(name))
        for name in FOLDERS
        for path in sorted(find_shipped(name).rglob("*"))
        if path.is_file() and "__pycache__" not in path.parts
    }
    if not overwrite:
        check_new_folder(str(target), "name a new folder, or have the files put beside that with --overwrite")
    _check_free(target, copies)
    made: list[Path] = []
    missing = {path: copy for path, copy in copies.items() if not copy.exists()}
    try:
        for path, copy in missing.items():
            made += _make_missing(copy.parent)
            made.append(copy)
            copy.write_bytes(_read_shipped(path))
    except OSError as problem:
        _take_back(made)
        raise CannotWriteError(explain_unwritable(target, problem)) from problem
    return list(missing.values())


def _check_free(target: Path, copies: Mapping[Path, Path]) -> None:
    """Raise `ConfigError` where a file of another content has the name of one of `copies`, or a link leads out."""
    if what := _describe_held(target, copies):
        remedy = "they stay, and nothing was copied: move them elsewhere, or name a new folder"
        raise ConfigError(Problem(what, remedy, path=str(target), code="HF705"))


def _describe_held(target: Path, copies: Mapping[Path, Path]) -> str | None:
    inside = {target / parent for copy in copies.values() for parent in copy.relative_to(target).parents} - {target}
    blocking = [path for path in sorted(inside) if leads_out(path, target) or (path.exists() and not path.is_dir())]
    if blocking:
        return f"holds files or links where there are to be folders: {_list_names(target, blocking)}"
    held = {path: copy for path, copy in copies.items() if os.path.lexists(copy)}
    others = [copy for path, copy in held.items() if not _is_copy(copy, path)]
    if not others:
        return None
    differ = f"{len(others)} differ{'' if len(others) > 1 else 's'}: {_list_names(target, others)}"
    same = f"; the {len(held) - len(others)} others are the same" if len(held) > len(others) else ""
    return f"holds {len(held)} of the {len(copies)} files already, of which {differ}{same}"


def _list_names(target: Path, paths: Sequence[Path]) -> str:
    more = f" and {len(paths) - _MOST_NAMED} more" if len(paths) > _MOST_NAMED else ""
    return ", ".join(path.relative_to(target).as_posix() for path in paths[:_MOST_NAMED]) + more


def _is_copy(copy: Path, path: Path) -> bool:
    try:
        return copy.is_file() and copy.read_bytes() == _read_shipped(path)
    except OSError:
        return False


def list_other_files(target: Path, written: Iterable[Path]) -> list[str]:
    """List what a folder holds beside the files `written` into it, hidden files aside; folders of the user's as one."""
    copies, ours = set(written), set(FOLDERS)
    beside = [path for path in target.iterdir() if path.name not in ours]
    beside += [path for name in FOLDERS for path in (target / name).rglob("*") if path.is_file() and path not in copies]
    return sorted(path.relative_to(target).as_posix() for path in beside if not path.name.startswith("."))


def _make_missing(folder: Path) -> list[Path]:
    """Make a folder and those above it; return those that were missing, outermost first."""
    missing = [each for each in (folder, *folder.parents) if not each.exists()]
    folder.mkdir(parents=True, exist_ok=True)
    return missing[::-1]


def _take_back(made: Sequence[Path]) -> None:
    """Remove the files and folders that were made: half a project would be taken for a whole one."""
    for path in reversed(made):
        with suppress(OSError):  # it was never made, or another process has put something into it
            path.rmdir() if path.is_dir() else path.unlink()


def _read_shipped(path: Path) -> bytes:
    """Read a shipped file as it is copied: the schema of a run file, for editors, is that of the installed package."""
    content = path.read_bytes()
    if path.suffix != ".yaml" or path.parent.name != "configs":
        return content
    schema = (PACKAGE / "config" / "run.schema.json").as_uri()
    return content.replace(b"../../hf_finetune/config/run.schema.json", schema.encode())
