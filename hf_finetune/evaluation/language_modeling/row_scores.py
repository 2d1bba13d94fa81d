"""The sums of each row as JSON, checked when read: those of a run in its folder, a base's in the cache."""

from __future__ import annotations

import hashlib
import json
import logging
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

logger = logging.getLogger(__name__)

Array = npt.NDArray[np.float64]


def read_objects(path: Path) -> dict[str, dict[str, Any]]:
    """Read the objects of a JSON file by name; {} where there is no file, or, with a warning, where it is torn."""
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
        if isinstance(content, dict) and all(isinstance(each, dict) for each in content.values()):
            return content
        raise ValueError("it holds no objects")
    except FileNotFoundError:
        return {}
    except (OSError, ValueError, RecursionError) as problem:
        _warn(path, problem)
        return {}


def read_sums(path: Path, name: str, made_from: str, rows: int) -> Array | None:
    """Read the sums, (rows, 3), of the inputs with the hash `made_from` under `name` of a file; None if there are none.

    What is torn, altered or of other inputs counts as none, with a warning.
    """
    record = read_objects(path).get(name)
    if record is None:
        return None
    try:
        return _parse_sums(record, made_from, rows)
    except (ValueError, TypeError, KeyError) as problem:
        _warn(path, problem)
        return None


def _parse_sums(record: dict[str, Any], made_from: str, rows: int) -> Array:
    """Check a record: its inputs, its checksum, and sums of finite numbers, (rows, 3)."""
    sums = np.asarray(record["sums"], dtype=np.float64)
    if record["made_from"] != made_from:
        raise ValueError("they are of other inputs")
    if sums.shape != (rows, 3) or not np.isfinite(sums).all():
        raise ValueError(f"{rows:,} rows of three numbers were expected")
    if record["sha256"] != _hash_sums(sums):
        raise ValueError("the checksum is another")
    return sums


def make_record(made_from: str, sums: Array) -> dict[str, Any]:
    """Make the JSON object of sums, (rows, 3), with what `read_sums` checks it by."""
    # JSON loses no bit of a float: Python writes the shortest text that reads back as the same, 0.30000000000000004.
    return {"made_from": made_from, "sha256": _hash_sums(sums), "sums": sums.tolist()}


def _hash_sums(sums: Array) -> str:
    """Hash the bits of sums, (rows, 3)."""
    return hashlib.sha256(np.ascontiguousarray(sums).tobytes()).hexdigest()


def _warn(path: Path, problem: Exception) -> None:
    why = " ".join(str(problem).split())[:100] or type(problem).__name__
    logger.warning(
        "%s does not hold the scores of the base (%s): they are computed anew", path.name, why, extra={"code": "HF332"}
    )
