"""The run folder -> the world.

merge               an adapter and its base -> one model, compared on held-out rows
export/             for another runtime, compared with the run
comparison_rows     the rows for both
measurement         what two forms of one model say to the same rows
hub/                push: an allow-list, no secrets, private unless asked, one commit
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from hf_finetune.lazy_imports import import_lazily

if TYPE_CHECKING:
    from hf_finetune.release.export.checks import check_export
    from hf_finetune.release.export.exporting import ExportResult, export_model
    from hf_finetune.release.export.options import ExportOptions
    from hf_finetune.release.hub import (
        check_push,
        format_push_result,
        plan_push,
        push_checkpoints,
        push_folder,
        push_run,
    )
    from hf_finetune.release.hub.card import read_license
    from hf_finetune.release.hub.transfer import PushOptions
    from hf_finetune.release.merge import merge_adapter

__all__ = [
    "ExportOptions",
    "ExportResult",
    "PushOptions",
    "check_export",
    "check_push",
    "export_model",
    "format_push_result",
    "merge_adapter",
    "plan_push",
    "push_checkpoints",
    "push_folder",
    "push_run",
    "read_license",
]

__getattr__, __dir__ = import_lazily(__name__)
