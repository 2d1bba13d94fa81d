"""Recipes, configurations, templates and pages: where they are in a checkout and a wheel, and how to copy them."""

from __future__ import annotations

import shutil
from collections.abc import Iterable, Sequence
from contextlib import suppress
from pathlib import Path

from hf_finetune.errors import CannotWriteError, ConfigError, Problem
from hf_finetune.files import explain_unwritable

PACKAGE = Path(__file__).resolve().parent.parent
# Messages and comments of run files name pages of docs/.
FOLDERS = ("recipes", "accelerate_configs", "data_templates", "docs")


def find_shipped(name: str) -> Path:
    """Find the folder (or file) `name` of the project: inside the installed package, else in the checkout."""
    # A wheel has them in hf_finetune/shipped/: a top-level `recipes` in site-packages could be anybody's.
    installed = PACKAGE / "shipped" / name
    return installed if installed.exists() else PACKAGE.parent / name


def find_project_file(folder: str, name: str) -> Path:
    """Find a recipe or configuration: the user's own below the current folder (`hf-finetune init`), else ours."""
    own = Path(folder) / name
    return own if own.is_file() else find_shipped(folder) / name


def init_project(target: Path) -> list[Path]:
    """Copy recipes, configurations, templates and pages into `target`, and return the files written.

    Nothing is overwritten: `ConfigError` says how many files exist already, and none is copied then. Raises
    `CannotWriteError` if the folder cannot be written, which is then as it was.
    """
    copies = {
        path: target / name / path.relative_to(find_shipped(name))
        for name in FOLDERS
        for path in sorted(find_shipped(name).rglob("*"))
        if path.is_file() and "__pycache__" not in path.parts
    }
    held = [copy for copy in copies.values() if copy.exists()]
    if held:
        what = f"holds {len(held)} of the {len(copies)} files already, the first of them {held[0].relative_to(target)}"
        raise ConfigError(Problem(what, "nothing was copied: name an empty folder", path=str(target)))
    made: list[Path] = []
    try:
        for path, copy in copies.items():
            made += _make_missing(copy.parent)
            made.append(copy)
            shutil.copyfile(path, copy)
            _point_to_schema(copy)
    except OSError as problem:
        _take_back(made)
        raise CannotWriteError(explain_unwritable(target, problem)) from problem
    return list(copies.values())


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


def _point_to_schema(copy: Path) -> None:
    """Point the schema comment of a copied run file to the installed package, for editors."""
    if copy.suffix != ".yaml" or copy.parent.name != "configs":
        return
    text = copy.read_text(encoding="utf-8")
    schema = (PACKAGE / "config" / "run.schema.json").as_uri()
    copy.write_text(text.replace("../../hf_finetune/config/run.schema.json", schema), encoding="utf-8")
