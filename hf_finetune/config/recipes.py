"""The recipes of this version."""

from __future__ import annotations

from hf_finetune.config.sections import RecipeName

SHIPPED_RECIPES: tuple[RecipeName, ...] = ("continued_pretraining", "classification", "sft", "lora", "score")
