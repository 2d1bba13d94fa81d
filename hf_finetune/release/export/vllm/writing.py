"""A folder for vLLM: what is refused, what is written, and transformers as its runtime here."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch
from transformers import AutoModelForCausalLM, PreTrainedConfig, PreTrainedTokenizerFast

from hf_finetune.errors import ModelError, Problem
from hf_finetune.models.classification_head import has_classification_head
from hf_finetune.models.saved import load_for_generation
from hf_finetune.release.export.options import ExportOptions
from hf_finetune.release.export.runtimes import Runtime, TransformersLanguageModel
from hf_finetune.release.export.source import Source, save_companions
from hf_finetune.release.export.targets import Tolerance, Written
from hf_finetune.release.export.vllm.quantizing import (
    GROUPS,
    find_group_size,
    list_products,
    measure_weights,
    quantize_model,
)

DEFAULT_QUANT = "fp8"
# Of the mean loss; what the bits of each cost, and a margin.
TOLERANCES = {"fp8": 0.05, "int8": 0.05, "int4": 0.2}


def get_quant(options: ExportOptions) -> str:
    """The quantization that was asked for, or 8 bits with an exponent."""
    return DEFAULT_QUANT if options.quant is None else options.quant


def check(config: PreTrainedConfig, tokenizer: PreTrainedTokenizerFast, options: ExportOptions, path: str) -> None:
    """Raise `ModelError` for a classifier, and for products that the format does not name or divide."""
    if has_classification_head(config):
        what = "is a classifier, and vLLM is given language models here"
        raise ModelError(Problem(what, "export it with --to onnx", path=path, code="HF972"))
    # Without weights, so that it costs nothing.
    with torch.device("meta"):
        model = AutoModelForCausalLM.from_config(config)
    if not list_products(model):
        what = f"is a {config.model_type} without linear layers, which alone are quantized"
        raise ModelError(Problem(what, "export it with --to gguf", path=path, code="HF972"))
    if get_quant(options) == "int4" and find_group_size(model) is None:
        sizes = [module.in_features for module in list_products(model).values()]
        odd = next(size for size in sizes if size % GROUPS[-1])
        what = f"int4 takes weights in groups of {GROUPS[-1]}, and rows of this model have {odd:,}"
        raise ModelError(Problem(what, "use --quant fp8 or int8", key="--quant", code="HF972"))


def get_tolerance(options: ExportOptions) -> Tolerance:
    return Tolerance("loss", TOLERANCES[get_quant(options)])


def write(source: Source, folder: Path, options: ExportOptions) -> Written:
    """Write quantized weights, and what goes beside them."""
    model: Any = source.model
    whole = 2 * sum(parameter.numel() for parameter in model.parameters())
    compressor = quantize_model(model, get_quant(options))
    model.save_pretrained(folder)
    save_companions(source, folder)
    compressor.update_config(str(folder))
    figures: dict[str, Any] = {
        "quant": get_quant(options),
        "bytes": measure_weights(folder),
        "bytes_in_bfloat16": whole,
        "quantized": len(list_products(model)),
    }
    return Written(("what the run keeps of its rows (row_prints.npz), its checkpoints and its report",), figures)


def open_runtime(folder: Path, options: ExportOptions) -> Runtime:
    """Open the folder in transformers, by the package of the format: on a CPU it computes what vLLM is to compute."""
    model, tokenizer = load_for_generation(str(folder), dtype=torch.float32)
    return TransformersLanguageModel(model.cpu(), tokenizer)
