"""The files of a run folder that say what happened: report.json, run.yaml, manifest.json."""

from __future__ import annotations

import hashlib
import json
import logging
import math
import os
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from hf_finetune.errors import CannotWriteError, ConfigError, DataError, Problem
from hf_finetune.reporting.summary import summary

logger = logging.getLogger(__name__)

REPORT = "report.json"
MANIFEST = "manifest.json"
RUN_FILE = "run.yaml"


@dataclass(frozen=True)
class RunReport:
    """What `report.json` holds; figures that were not computed are absent, never zero."""

    recipe: str
    run_id: str
    status: str
    settings: dict[str, Any]
    data: dict[str, Any]
    parameters: dict[str, Any]
    train: dict[str, Any]
    evaluation: dict[str, Any]
    samples: list[dict[str, Any]] = field(default_factory=list)
    distributed: dict[str, Any] = field(default_factory=dict)
    environment: dict[str, Any] = field(default_factory=dict)


def claim_run_folder(output_dir: str, *, resume: str | bool | None) -> None:
    """Make the folder of a run; one that holds another run's files is refused unless that run is resumed.

    Raises `ConfigError`, or `CannotWriteError` where the folder cannot be made.
    """
    folder = Path(output_dir)
    held = [path.name for path in (folder / REPORT, *sorted(folder.glob("checkpoint-*"))) if path.exists()]
    if held and not resume:
        raise ConfigError(
            Problem(
                f"{output_dir} holds another run's {held[0]}",
                "name another folder, remove this one, or go on from a checkpoint: train.resume_from_checkpoint=true",
                key="output_dir",
            )
        )
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as problem:
        raise CannotWriteError(
            Problem(f"{output_dir} cannot be made ({problem.strerror})", "name another folder", key="output_dir")
        ) from problem


def open_manifest(output_dir: str, manifest: dict[str, Any], *, resume: str | bool | None) -> None:
    """Write down what a run reads before it trains on it.

    Raises `DataError` where a resumed run's data files are not what they were, naming each that changed.
    """
    path = Path(output_dir) / MANIFEST
    if resume and path.exists():
        before = {file["path"]: file["sha256"] for file in json.loads(path.read_text())["data"]["files"]}
        changed = [file["path"] for file in manifest["data"]["files"] if before.get(file["path"]) != file["sha256"]]
        if changed:
            remedy = "put the file back as it was, or start a new run in another output_dir"
            raise DataError([Problem("has changed since the run began", remedy, path=name) for name in changed])
    _write(path, _as_json(manifest))


def write_run_folder(output_dir: str, report: RunReport, run_file: str) -> None:
    """Write run.yaml and report.json and complete the manifest, each file aside and renamed, the report last.

    Where report.json stands, the run was finished. The end of the run is said in the log.
    """
    folder = Path(output_dir)
    manifest = json.loads((folder / MANIFEST).read_text())
    _write(folder / RUN_FILE, run_file)
    _write(folder / MANIFEST, _as_json(manifest | {"files": hash_files(folder)}))
    _write(folder / REPORT, _as_json(asdict(report)))
    logger.info("%s", summary(asdict(report), output_dir))


def hash_files(folder: Path) -> dict[str, str]:
    """sha256 of each file of the model in `folder`, by name; checkpoints and our own three files left out."""
    files = sorted(path for path in folder.iterdir() if path.is_file())
    return {path.name: _sha256(path) for path in files if path.name not in (REPORT, MANIFEST, RUN_FILE)}


def _sha256(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def _as_json(value: Any) -> str:
    return json.dumps(_finite(value), indent=2, ensure_ascii=False, allow_nan=False) + "\n"


def _finite(value: Any) -> Any:
    """JSON has no NaN: say it in words, where dropping it would read as 'not computed'."""
    if isinstance(value, dict):
        return {key: _finite(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [_finite(item) for item in value]
    if isinstance(value, float) and not math.isfinite(value):
        return str(value)
    return value


def _write(path: Path, text: str) -> None:
    aside = path.with_name(f".{path.name}.aside")
    aside.write_text(text, encoding="utf-8")
    os.replace(aside, path)
