"""What kind of model a folder holds, as far as its JSON files tell: torch is never imported."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

ADAPTER, CONFIG = "adapter_config.json", "config.json"


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
