"""Run, data and model -> what will happen, before a model is loaded.

findings    what is found, with its code, its place and what to do
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from hf_finetune.lazy_imports import import_lazily

if TYPE_CHECKING:
    from hf_finetune.preflight.findings import Finding

__all__ = ["Finding"]

__getattr__, __dir__ = import_lazily(__name__)
