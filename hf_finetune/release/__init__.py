"""The run folder -> the world.

merge               an adapter and its base -> one model, compared on held-out rows
export/             for another runtime, compared with the run
serve/              a model behind HTTP: OpenAI's API, a page
comparison_rows     the rows for merge and export
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
    from hf_finetune.release.export.summary import describe_result
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
    from hf_finetune.release.serve.options import Limits, ServeOptions
    from hf_finetune.release.serve.start import serve_model
    from hf_finetune.release.serve.vllm import format_other_servers

__all__ = [
    "ExportOptions",
    "ExportResult",
    "Limits",
    "PushOptions",
    "ServeOptions",
    "check_export",
    "check_push",
    "describe_result",
    "export_model",
    "format_other_servers",
    "format_push_result",
    "merge_adapter",
    "plan_push",
    "push_checkpoints",
    "push_folder",
    "push_run",
    "read_license",
    "serve_model",
]

__getattr__, __dir__ = import_lazily(__name__)
