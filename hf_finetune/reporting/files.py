"""The files of a run folder by name, and how they are hashed and written."""

from __future__ import annotations

import hashlib
import json
import math
import os
from pathlib import Path
from typing import Any

from hf_finetune.folders import CARD, MANIFEST

REPORT = "report.json"
RUN_FILE = "run.yaml"
# What a run says about its model, and is no part of it.
OURS = (REPORT, MANIFEST, RUN_FILE, "report.html", CARD)


def hash_files(folder: Path) -> dict[str, str]:
    """sha256 of each file of the model in `folder`, by name; checkpoints and what we write about it left out."""
    files = sorted(path for path in folder.iterdir() if path.is_file())
    return {path.name: _sha256(path) for path in files if path.name not in OURS}


def _sha256(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def _as_json(value: Any) -> str:
    return json.dumps(json_ready(value), indent=2, ensure_ascii=False, allow_nan=False) + "\n"


def json_ready(value: Any) -> Any:
    """JSON has no NaN: say it in words, where dropping it would read as 'not computed'."""
    if isinstance(value, dict):
        return {key: json_ready(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [json_ready(item) for item in value]
    if isinstance(value, float) and not math.isfinite(value):
        return str(value)
    return value


def _write(path: Path, text: str) -> None:
    aside = path.with_name(f".{path.name}.aside")
    aside.write_text(text, encoding="utf-8")
    os.replace(aside, path)
