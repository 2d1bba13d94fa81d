"""HF8xx: the Hub."""

from __future__ import annotations

from hf_finetune.codes.code import Code

HUB: dict[str, Code] = {}
