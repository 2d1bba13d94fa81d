"""Recipes, configurations, templates and pages: where they are in a checkout and a wheel, and how to copy them."""

from __future__ import annotations

import shutil
from pathlib import Path

from hf_finetune.errors import CannotWriteError, ConfigError, Problem

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
    `CannotWriteError` if the folder cannot be written.
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
    try:
        for path, copy in copies.items():
            copy.parent.mkdir(parents=True, exist_ok=True)
            shutil.copyfile(path, copy)
            _point_to_schema(copy)
    except OSError as problem:
        raise CannotWriteError(
            Problem(f"cannot be written ({problem.strerror})", "name a folder of yours", path=str(target))
        ) from problem
    return list(copies.values())


def _point_to_schema(copy: Path) -> None:
    """Point the schema comment of a copied run file to the installed package, for editors."""
    if copy.suffix != ".yaml" or copy.parent.name != "configs":
        return
    text = copy.read_text(encoding="utf-8")
    schema = (PACKAGE / "config" / "run.schema.json").as_uri()
    copy.write_text(text.replace("../../hf_finetune/config/run.schema.json", schema), encoding="utf-8")
