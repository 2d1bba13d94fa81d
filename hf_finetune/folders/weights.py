"""Whether the model of a finished run is still whole, by names and sizes: nothing of its tensors is read."""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any

from hf_finetune.files import MAX_HEADER_BYTES
from hf_finetune.folders.ownership import read_manifest

_WEIGHTS = re.compile(r"(?:adapter_)?model(?:-\d{5}-of-\d{5})?\.safetensors")


def find_lost_weights(folder: Path) -> str | None:
    """What is wrong with the weights that the manifest of a finished run names; None where all are there and whole."""
    files = read_manifest(folder).get("files")
    for name in sorted(files) if isinstance(files, dict) else []:
        if _WEIGHTS.fullmatch(name) and not _is_whole(folder / name):
            return f"{name} is {'cut short' if (folder / name).is_file() else 'missing'}"
    return None


def _is_whole(path: Path) -> bool:
    """Whether a file of safetensors is as long as its header says."""
    try:
        if not path.is_file():
            return False
        with path.open("rb") as file:
            length = int.from_bytes(file.read(8), "little")
            header: Any = json.loads(file.read(length)) if length <= MAX_HEADER_BYTES else None
        ends = [each["data_offsets"][1] for name, each in header.items() if name != "__metadata__"]
        return path.stat().st_size == 8 + length + max(ends, default=0)
    except (OSError, ValueError, RecursionError, KeyError, IndexError, TypeError, AttributeError):
        return False
