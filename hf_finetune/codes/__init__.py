"""The codes of what is found and refused: `HF012` stands for the same fault in every message, report and release.

A code is given once and never given again; `hf-finetune explain HF012` prints its page.

code        what a code is
table       all of them
pages       what `hf-finetune explain` says of one
rows        HF0xx: files, and rows that cannot be read; HF4xx: personal data and secrets in rows
sources     HF05x to HF09x of these: sources, tables, streams, corpora and the cache
lengths     HF10x: lengths and tokens
templates   HF13x: chat templates
evaluation  HF3xx: labels and evaluation
splits      HF2xx: duplicates and leakage; HF38x: splits that are small, lopsided, or of another kind
models      HF5xx: models and tokenizers
run_file    HF6xx: the run file and the command line
machine     HF7xx: the machine and its folders
hub         HF8xx: the Hub; HF87x: serving
training    HF9xx: training
exports     HF97x: exports
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from hf_finetune.lazy_imports import import_lazily

if TYPE_CHECKING:
    from hf_finetune.codes.code import Code, Level
    from hf_finetune.codes.pages import find_code, format_list, format_markdown, format_page
    from hf_finetune.codes.splits import SPLITS
    from hf_finetune.codes.table import CODES

__all__ = ["CODES", "SPLITS", "Code", "Level", "find_code", "format_list", "format_markdown", "format_page"]

__getattr__, __dir__ = import_lazily(__name__)
