"""HF7xx: the machine and its folders."""

from __future__ import annotations

from hf_finetune.codes.code import Code

MACHINE: dict[str, Code] = {}
