"""What kind of model a folder holds, as far as its JSON files tell: torch is never imported."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import msgspec
from msgspec import Raw

from hf_finetune.errors import Problem

ADAPTER, CONFIG, BASE_RECORD = "adapter_config.json", "config.json", "base_model.json"
JSON_FILES = (CONFIG, ADAPTER, BASE_RECORD, "tokenizer.json", "tokenizer_config.json", "generation_config.json")


def is_classifier(folder: Path) -> bool | None:
    """Whether a model or adapter is a sequence classifier; None where its files do not tell."""
    if not (folder / ADAPTER).exists():
        names = read_model_json(folder / CONFIG).get("architectures")
        return None if not names else any(str(name).endswith("ForSequenceClassification") for name in names)
    task = read_model_json(folder / ADAPTER).get("task_type")
    return {"SEQ_CLS": True, "CAUSAL_LM": False}.get(str(task))


def find_damage(folder: Path, shown: str) -> list[Problem]:
    """Find the JSON files of a model's folder that hold no object, as a copy that was cut off leaves them."""
    problems = []
    for name in JSON_FILES:
        file = folder / name
        if not file.is_file():
            continue
        try:
            # `Raw` is checked and not built: a tokenizer.json has megabytes.
            msgspec.json.decode(file.read_bytes(), type=dict[str, Raw])
        except OSError as unreadable:
            problems.append(
                Problem(f"cannot be read ({unreadable.strerror})", "check its permissions", f"{shown}/{name}")
            )
        except (msgspec.DecodeError, RecursionError):
            what = "is empty" if not file.stat().st_size else "is damaged: it holds no JSON object"
            problems.append(Problem(what, "copy the model's folder again", f"{shown}/{name}"))
    return problems


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
