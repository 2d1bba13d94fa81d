"""The codes of what is found and refused: `HF012` stands for the same fault in every message, report and release.

A code is given once and never given again; `hf-finetune explain HF012` prints its page.

code      what a code is
table     all of them
lengths   HF1xx: lengths and tokens
duplicates  HF2xx: duplicates, and rows that are evaluated and trained
drift     HF38x: rows of another kind than the training rows
personal  HF4xx: personal data and secrets
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from hf_finetune.lazy_imports import import_lazily

if TYPE_CHECKING:
    from hf_finetune.codes.code import Code, Level
    from hf_finetune.codes.table import CODES

__all__ = ["CODES", "Code", "Level"]

__getattr__, __dir__ = import_lazily(__name__)
