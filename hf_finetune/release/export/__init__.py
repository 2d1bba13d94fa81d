"""A model -> a folder for another runtime, opened there again and compared with the run before it is kept.

options             what can be asked for
values              what an option may be, where that can be told early
checks              what is refused before torch is imported
targets             what a target is, and where each is: `TARGETS`
source              the run, model or adapter that is exported, and what goes beside its weights
runtimes            what a model is asked, in any runtime; the answers of transformers
compare             the same rows asked of run and export: figures, and what they may differ by
template_parity     the same conversations rendered by run, export and what serves it
conversations       which
onnx/ gguf/ ollama/ the targets
llama/              --to llama: a ScratchGPT as the published architecture that computes the same
vllm/               --to vllm: a model folder in fewer bits
exporting           the export itself: made aside, compared, renamed
summary             what there is to say of it, in lines
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from hf_finetune.lazy_imports import import_lazily

if TYPE_CHECKING:
    from hf_finetune.release.export.checks import check_export
    from hf_finetune.release.export.exporting import ExportResult, export_model
    from hf_finetune.release.export.options import ExportOptions
    from hf_finetune.release.export.summary import describe_result
    from hf_finetune.release.export.targets import TARGETS

__all__ = ["TARGETS", "ExportOptions", "ExportResult", "check_export", "describe_result", "export_model"]

__getattr__, __dir__ = import_lazily(__name__)
