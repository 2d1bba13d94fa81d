"""The weights of a model rounded to the nearest number of fewer bits, as vLLM and transformers read them."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from compressed_tensors.compressors import ModelCompressor
from compressed_tensors.compressors.base import compress_module
from compressed_tensors.quantization import (
    QuantizationArgs,
    QuantizationConfig,
    QuantizationStatus,
    apply_quantization_config,
    preset_name_to_scheme,
)
from compressed_tensors.quantization.utils import calculate_qparams
from torch import Tensor, nn
from transformers import PreTrainedModel

# The presets of llm-compressor, by the names that vLLM's users know: weights by channel and what they are multiplied
# with by token, as it comes; in 4 bits weights alone, by groups.
PRESETS: Mapping[str, str] = {"fp8": "FP8_DYNAMIC", "int8": "W8A8", "int4": "W4A16"}
GROUPS = (128, 64, 32)
"""Sizes of a group that vLLM has kernels for; the first that every row divides into is taken."""
STORED = torch.bfloat16
"""Of scales, and of all that is not quantized: what vLLM computes in."""


def list_products(model: PreTrainedModel) -> dict[str, nn.Linear]:
    """List the products that are quantized, by name: all linear layers but the head."""
    head = model.get_output_embeddings()
    return {
        name: module for name, module in model.named_modules() if isinstance(module, nn.Linear) and module is not head
    }


def find_group_size(model: PreTrainedModel) -> int | None:
    """Find the largest group that every row of the products divides into; None where there is none."""
    sizes = {module.in_features for module in list_products(model).values()}
    return next((group for group in GROUPS if all(size % group == 0 for size in sizes)), None)


def build_config(model: PreTrainedModel, quant: str) -> QuantizationConfig:
    """Build what config.json says of the quantization: the head is named, since it is a linear layer as the others."""
    scheme = preset_name_to_scheme(PRESETS[quant], ["Linear"])
    if quant == "int4":
        assert scheme.weights is not None
        scheme.weights.group_size = find_group_size(model)
    head = model.get_output_embeddings()
    whole = [name for name, module in model.named_modules() if module is head]
    return QuantizationConfig(
        config_groups={"group_0": scheme}, ignore=whole, quantization_status=QuantizationStatus.INITIALIZED
    )


def quantize_model(model: PreTrainedModel, quant: str) -> ModelCompressor:
    """Quantize a model in float32, in place, and store what is left of it in 16 bits; it computes nothing from then on.

    Returns what writes the quantization into a config.json.
    """
    apply_quantization_config(model, build_config(model, quant), show_progress=False)
    products: list[Any] = [*list_products(model).values()]
    with torch.no_grad():
        for module in products:
            module.weight_scale.copy_(find_scales(module.weight, module.quantization_scheme.weights))
    compressor = ModelCompressor.from_pretrained_model(model)
    for module in products:
        compress_module(module)
    assert compressor.quantization_config is not None
    compressor.quantization_config.quantization_status = QuantizationStatus.COMPRESSED
    for parameter in model.parameters():
        # Not `model.to`: that would take the numbers in 8 bits back to 16.
        if parameter.dtype == torch.float32:
            parameter.data = parameter.data.to(STORED)
    model.config.dtype = STORED
    return compressor


def find_scales(weight: Tensor, settings: QuantizationArgs) -> Tensor:
    """Find the scales of a weight (out, in): (out, groups), of channels (out, 1)."""
    size = settings.group_size or weight.shape[-1]
    groups = weight.reshape(len(weight), -1, size)  # (out, groups, size)
    scales: Tensor
    scales, _ = calculate_qparams(groups.amin(-1), groups.amax(-1), settings)
    # Rounded as they are stored, before weights are: each weight is then the nearest that can be read again.
    return scales.to(STORED).float()


def measure_weights(folder: Path) -> int:
    """The bytes of the weights in a folder."""
    return sum(file.stat().st_size for file in folder.glob("*.safetensors"))
