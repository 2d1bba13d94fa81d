"""HF5xx: models and tokenizers."""

from __future__ import annotations

from hf_finetune.codes.code import Code

MODELS: dict[str, Code] = {}
