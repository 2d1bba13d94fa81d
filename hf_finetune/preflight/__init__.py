"""Run, data and model -> what will happen, before a model is loaded.

detectors/  what is wrong with rows that can be read: personal data, secrets, duplicates, drift
findings    what is found, with its code, its place and what to do
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from hf_finetune.lazy_imports import import_lazily

if TYPE_CHECKING:
    from hf_finetune.preflight.detectors.benchmarks import detect_benchmark_overlap, read_against
    from hf_finetune.preflight.detectors.drift import detect_drift
    from hf_finetune.preflight.detectors.duplicates import detect_duplicates
    from hf_finetune.preflight.detectors.personal import detect_personal
    from hf_finetune.preflight.findings import Finding

__all__ = [
    "Finding",
    "detect_benchmark_overlap",
    "detect_drift",
    "detect_duplicates",
    "detect_personal",
    "read_against",
]

__getattr__, __dir__ = import_lazily(__name__)
