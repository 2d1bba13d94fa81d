"""All codes."""

from __future__ import annotations

from hf_finetune.codes.code import Code
from hf_finetune.codes.drift import DRIFT
from hf_finetune.codes.duplicates import DUPLICATES
from hf_finetune.codes.lengths import LENGTHS
from hf_finetune.codes.personal import PERSONAL

CODES: dict[str, Code] = {**LENGTHS, **DUPLICATES, **DRIFT, **PERSONAL}
