"""The files of a run folder by name, and how they are hashed."""

from __future__ import annotations

import json
import math
from pathlib import Path
from typing import Any

from hf_finetune.files import hash_file
from hf_finetune.folders import CARD, MANIFEST

REPORT = "report.json"
RUN_FILE = "run.yaml"
# What a run says about its model, and is no part of it.
OURS = (REPORT, MANIFEST, RUN_FILE, "report.html", CARD)


def hash_files(folder: Path) -> dict[str, str]:
    """sha256 of each file of the model in `folder`, by name; checkpoints and what we write about it left out."""
    files = sorted(path for path in folder.iterdir() if path.is_file())
    return {path.name: hash_file(path) for path in files if path.name not in OURS and not path.name.endswith(".aside")}


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
