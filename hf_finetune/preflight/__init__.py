"""Run, data and model -> what will happen, before a model is loaded.

findings    what is found, with its code, its place and what to do
plan/       files of rows -> a run file that runs as it stands: `hf-finetune new`
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from hf_finetune.lazy_imports import import_lazily

if TYPE_CHECKING:
    from hf_finetune.preflight.findings import Finding
    from hf_finetune.preflight.plan.make import NewRun, make_run_file
    from hf_finetune.preflight.plan.models import Candidate

__all__ = ["Candidate", "Finding", "NewRun", "make_run_file"]

__getattr__, __dir__ = import_lazily(__name__)
