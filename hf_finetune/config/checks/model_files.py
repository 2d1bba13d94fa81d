"""What kind of model a folder holds, as far as its JSON files tell: torch is never imported."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

ADAPTER, CONFIG, BASE_RECORD = "adapter_config.json", "config.json", "base_model.json"


def is_classifier(folder: Path) -> bool | None:
    """Whether a model or adapter is a sequence classifier; None where its files do not tell."""
    if not (folder / ADAPTER).exists():
        names = read_model_json(folder / CONFIG).get("architectures")
        return None if not names else any(str(name).endswith("ForSequenceClassification") for name in names)
    task = read_model_json(folder / ADAPTER).get("task_type")
    return {"SEQ_CLS": True, "CAUSAL_LM": False}.get(str(task))


def read_model_json(file: Path) -> dict[str, Any]:
    """Read the object in a JSON file; {} where it is none, of which loading the model will tell more."""
    try:
        values = json.loads(file.read_text(encoding="utf-8"))
    except (OSError, ValueError, RecursionError):
        return {}
    return values if isinstance(values, dict) else {}


def read_problem_type(folder: Path) -> str | None:
    """`problem_type` of a classifier or of an adapter's record of its base; None where its files do not tell."""
    record = read_model_json(folder / BASE_RECORD).get("classifier") if (folder / ADAPTER).exists() else None
    described = record if isinstance(record, dict) else read_model_json(folder / CONFIG)
    found = described.get("problem_type")
    return found if isinstance(found, str) else None
