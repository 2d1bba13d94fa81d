"""The JSON Schema of a run file, from the settings classes that validate it."""

from __future__ import annotations

from typing import Any

from hf_finetune.config.recipes import SHIPPED_RECIPES
from hf_finetune.config.run_file import run_file_model
from hf_finetune.config.stack_settings import train_model

SCHEMA_FILE = "run.schema.json"


def run_schema() -> dict[str, Any]:
    """Build the schema with which an editor completes and validates a run file, whatever its recipe."""
    # SFTConfig has every field of TrainingArguments, so that its recipes have the most settings under `train`.
    widest = max(SHIPPED_RECIPES, key=lambda recipe: len(train_model(recipe).model_fields))
    schema = run_file_model(widest).model_json_schema()
    return {"$schema": "https://json-schema.org/draft/2020-12/schema", "title": "hf-finetune run file"} | {
        key: value for key, value in schema.items() if key != "title"
    }
