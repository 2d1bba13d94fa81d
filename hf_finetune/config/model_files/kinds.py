"""What kind of model a folder holds, as far as its JSON files tell."""

from __future__ import annotations

from pathlib import Path

from hf_finetune.config.model_files.description import ADAPTER, BASE_RECORD, CONFIG
from hf_finetune.config.model_files.regular import read_object


def is_classifier(folder: Path) -> bool | None:
    """Whether a model or adapter is a sequence classifier; None where its files do not tell."""
    if not (folder / ADAPTER).exists():
        names = (read_object(folder / CONFIG) or {}).get("architectures")
        if not isinstance(names, list) or not names:
            return None
        return any(str(name).endswith("ForSequenceClassification") for name in names)
    task = (read_object(folder / ADAPTER) or {}).get("task_type")
    return {"SEQ_CLS": True, "CAUSAL_LM": False}.get(str(task))


def read_problem_type(folder: Path) -> str | None:
    """`problem_type` of a classifier or of an adapter's record of its base; None where its files do not tell."""
    record = (read_object(folder / BASE_RECORD) or {}).get("classifier") if (folder / ADAPTER).exists() else None
    described = record if isinstance(record, dict) else read_object(folder / CONFIG) or {}
    found = described.get("problem_type")
    return found if isinstance(found, str) else None
