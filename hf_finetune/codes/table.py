"""All codes."""

from __future__ import annotations

from hf_finetune.codes.code import Code
from hf_finetune.codes.lengths import LENGTHS

CODES: dict[str, Code] = {**LENGTHS}
