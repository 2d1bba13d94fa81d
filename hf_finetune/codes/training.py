"""HF9xx: training."""

from __future__ import annotations

from hf_finetune.codes.code import Code

TRAINING: dict[str, Code] = {}
