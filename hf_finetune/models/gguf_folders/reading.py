"""The weights of a GGUF file, put back into a model of transformers."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import torch
from gguf import GGUFReader, dequantize
from transformers import AutoModelForCausalLM, PreTrainedConfig, PreTrainedModel

from hf_finetune.errors import ModelError, Problem
from hf_finetune.models.gguf_folders.families import find_family
from hf_finetune.models.gguf_folders.weights import Array, is_transposed, list_weights, put_in_halves
from hf_finetune.models.ready_made.gguf_header import read_gguf_header

MODEL = "model.gguf"


def is_gguf_folder(path: str) -> bool:
    """Whether a folder's weights are the GGUF file of an export."""
    return Path(path, MODEL).is_file() and Path(path, "config.json").is_file()


def load_gguf_weights(path: str, config: PreTrainedConfig) -> PreTrainedModel:
    """Load the model of an exported folder in float32, whatever its weights are stored in, in evaluation mode.

    Raises `ModelError` where the file is damaged, or is not of the configuration beside it.
    """
    file = Path(path, MODEL)
    header = read_gguf_header(file)
    model: PreTrainedModel = AutoModelForCausalLM.from_config(config, dtype=torch.float32)
    # More may be in the file, such as the rotations of Llama 3.1, but nothing less.
    listed = {name: int(np.prod(shape)) for name, (_, shape) in list_weights(model).items()}
    if listed != {name: header.tensors.get(name) for name in listed}:
        what, remedy = "holds other weights than the config.json beside it describes", "export the model again"
        raise ModelError(Problem(what, remedy, path=str(file), code="HF561"))
    read_back(file, model)
    model.eval()
    return model


def read_back(path: Path, model: PreTrainedModel) -> None:
    """Replace the weights of `model`, which the file was written of, by those of the file."""
    listed = list_weights(model)
    state = model.state_dict()
    with torch.no_grad():
        for tensor in GGUFReader(path).tensors:
            if tensor.name in listed:
                weight = np.asarray(dequantize(tensor.data, tensor.tensor_type), dtype=np.float32)
                state[listed[tensor.name][0]].copy_(torch.from_numpy(_restore(tensor.name, weight, model).copy()))


def add_adapter(path: Path, model: PreTrainedModel) -> None:
    """Add the adapter in the GGUF file `path` to the weights of `model`, its base."""
    reader, listed, state = GGUFReader(path), list_weights(model), model.state_dict()
    factors = {tensor.name: torch.from_numpy(np.array(tensor.data)) for tensor in reader.tensors}
    alpha = float(reader.fields["adapter.lora.alpha"].contents())
    # Added in float32, as peft adds: llama.cpp keeps both apart, and gives the same sums in another order.
    with torch.no_grad():
        for name in listed:
            if (down := factors.get(f"{name}.lora_a")) is not None:
                change = (factors[f"{name}.lora_b"] @ down) * (alpha / len(down))  # (out, in)
                whole = _turn_back(name, change.numpy(), model)
                state[listed[name][0]].add_(torch.from_numpy(whole.copy()))


def _restore(name: str, weight: Array, model: PreTrainedModel) -> Array:
    """A weight of the file, (out, in) or (out,), as the model has it."""
    if find_family(model.config).norms_plus_one and "norm." in name:
        weight = weight - np.float32(1)
    return _turn_back(name, weight, model)


def _turn_back(name: str, weight: Array, model: PreTrainedModel) -> Array:
    """A weight, or a change of one, (out, in), in our order of rows and columns."""
    family = find_family(model.config)
    if family.pairs:
        weight = put_in_halves(name, weight, model.config)
    return weight.T if is_transposed(family, name) else weight
