"""The weights of a GGUF file, put back into a model of ours: what their way there and back has changed."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import torch
from gguf import GGUFReader, dequantize
from transformers import PreTrainedModel

from hf_finetune.release.export.gguf.families import find_family
from hf_finetune.release.export.gguf.weights import Array, is_transposed, list_weights, put_in_halves


def read_back(path: Path, model: PreTrainedModel) -> None:
    """Replace the weights of `model`, which the file was written of, by those of the file."""
    listed = list_weights(model)
    state = model.state_dict()
    with torch.no_grad():
        for tensor in GGUFReader(path).tensors:
            if tensor.name in listed:
                weight = np.asarray(dequantize(tensor.data, tensor.tensor_type), dtype=np.float32)
                restored = torch.from_numpy(_restore(tensor.name, weight, model).copy())
                state[listed[tensor.name][0]].copy_(restored)


def _restore(name: str, weight: Array, model: PreTrainedModel) -> Array:
    family = find_family(model.config)
    if family.pairs:
        weight = put_in_halves(name, weight, model.config)
    if family.norms_plus_one and "norm." in name:
        weight = weight - np.float32(1)
    return weight.T if is_transposed(family, name) else weight
