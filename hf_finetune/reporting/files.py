"""The files of a run folder by name, and how they are hashed."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from hf_finetune.files import encode_non_finite, hash_file
from hf_finetune.folders import CARD, NOBODYS, RECORDS

# Records about the model: manifest.json does not hash them, and a model folder is complete without them.
RECORD_FILES = (*RECORDS, CARD)


def hash_files(folder: Path) -> dict[str, str]:
    """sha256 by file name of the model in `folder`, without subfolders (checkpoints) and without our own records."""
    files = sorted(path for path in folder.iterdir() if path.is_file())
    return {
        path.name: hash_file(path)
        for path in files
        if path.name not in RECORD_FILES and not NOBODYS.fullmatch(path.name)
    }


def format_json(value: Any) -> str:
    """Format a file of a run folder."""
    return json.dumps(encode_non_finite(value), indent=2, ensure_ascii=False, allow_nan=False) + "\n"


def get_part(holder: Any, *keys: str) -> dict[str, Any]:
    """The object that `keys` lead to in `holder`; {} where there is none: the file may be of another tool."""
    for key in keys:
        holder = holder.get(key) if isinstance(holder, Mapping) else None
    return dict(holder) if isinstance(holder, Mapping) else {}
