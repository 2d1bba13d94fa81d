"""HF30x to HF37x, of HF3xx (labels and evaluation)."""

from __future__ import annotations

from hf_finetune.codes.code import Code

EVALUATION: dict[str, Code] = {}
