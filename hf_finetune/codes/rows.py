"""HF0xx: files, and rows that cannot be read."""

from __future__ import annotations

from hf_finetune.codes.code import Code

ROWS: dict[str, Code] = {}
