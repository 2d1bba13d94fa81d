"""A ScratchGPT written as an ordinary model folder, which any program that knows the architecture loads."""

from __future__ import annotations

import logging
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch
from transformers import AutoConfig, PreTrainedConfig, PreTrainedTokenizerFast

from hf_finetune.config.sections import ModelSection
from hf_finetune.errors import ModelError, Problem
from hf_finetune.models.classification_head import has_classification_head
from hf_finetune.models.loading import load_pretrained
from hf_finetune.models.saved import load_for_generation
from hf_finetune.models.scratch_gpt import ScratchGPTConfig
from hf_finetune.release.export.llama.conversion import TRANSFORMERS_ALONE, convert_to_published, find_architecture
from hf_finetune.release.export.llama.on_the_way import check_fit, list_left_out
from hf_finetune.release.export.options import ExportOptions
from hf_finetune.release.export.runtimes import Runtime, TransformersLanguageModel
from hf_finetune.release.export.source import Source, save_companions
from hf_finetune.release.export.targets import Tolerance, Written

logger = logging.getLogger(__name__)

SAME = Tolerance("logits", 1e-5)


def check(config: PreTrainedConfig, tokenizer: PreTrainedTokenizerFast, options: ExportOptions, path: str) -> None:
    """Raise `ModelError` for what is no ScratchGPT, for a classifier, and for fields that no architecture expresses."""
    if not isinstance(config, ScratchGPTConfig):
        what = f"is a {config.model_type}, an architecture that is published as it is; --to llama is for a ScratchGPT"
        raise ModelError(Problem(what, "take its folder, or that of `hf-finetune merge`", path=path, code="HF972"))
    if has_classification_head(config):
        what = "is a classifier whose head has a bias, which those of the published architectures have not"
        raise ModelError(Problem(what, "export it with --to onnx", path=path, code="HF972"))
    check_fit(find_architecture(config), "no published architecture", path)


def get_tolerance(options: ExportOptions) -> Tolerance:
    return SAME


def write(source: Source, folder: Path, options: ExportOptions) -> Written:
    """Write weights in the precision of the run's files, and what goes beside them."""
    model: Any = source.model
    published: Any = convert_to_published(model)
    published.to(_find_stored_dtype(source))
    architecture = type(published).__name__
    published.save_pretrained(folder)
    save_companions(replace(source, model=published), folder)
    if architecture in TRANSFORMERS_ALONE:
        logger.warning(
            "%s computes this model in transformers alone: vLLM and llama.cpp know it with another activation; "
            "for them, train with model.scratch.preset: llama-like",
            architecture,
            extra={"code": "HF975"},
        )
    left_out = ["what the run keeps of its rows (row_prints.npz), its checkpoints and its report"]
    left_out += list_left_out(model.config, architecture)
    return Written(tuple(left_out), {"architecture": architecture, "dtype": str(published.dtype).rpartition(".")[2]})


def _find_stored_dtype(source: Source) -> torch.dtype:
    """The precision of the weights as they lie there, of which float32 is a copy; of a merged adapter float32."""
    if source.adapter is not None:
        return torch.float32
    config: PreTrainedConfig = load_pretrained(AutoConfig, ModelSection(path=source.path))
    return config.dtype if isinstance(config.dtype, torch.dtype) else torch.float32


def open_runtime(folder: Path, options: ExportOptions) -> Runtime:
    """Open an export in transformers, by its own class, in float32."""
    model, tokenizer = load_for_generation(str(folder), dtype=torch.float32)
    return TransformersLanguageModel(model.cpu(), tokenizer)
