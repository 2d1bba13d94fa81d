"""A model's weights by the names, and in the order of rows, that llama.cpp reads them in."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from transformers import PreTrainedConfig, PreTrainedModel

from hf_finetune.errors import ModelError, Problem
from hf_finetune.models.gguf_folders.families import Family, find_family, rename

Array = NDArray[np.float32]


def list_weights(model: PreTrainedModel) -> dict[str, tuple[str, tuple[int, ...]]]:
    """Our name and the stored shape of each weight, by llama.cpp's name.

    Raises `ModelError` for one that it has no place for: the model would be another without it.
    """
    family = find_family(model.config)
    listed: dict[str, tuple[str, tuple[int, ...]]] = {}
    for name, value in model.state_dict().items():
        if is_left_out(name, model.config):
            continue
        theirs = rename(family, name)
        if theirs is None:
            what = f"llama.cpp has no place for {name} in a model of the kind {model.config.model_type!r}"
            raise ModelError(Problem(what, "export another format", code="HF972"))
        shape = tuple(value.shape)
        listed[theirs] = name, shape[::-1] if is_transposed(family, theirs) else shape
    return listed


def is_left_out(name: str, config: PreTrainedConfig) -> bool:
    """Whether a weight is not stored: a head that is the embeddings, and the masks of GPT-2."""
    tied_head = name == "lm_head.weight" and bool(config.tie_word_embeddings)
    return tied_head or name.endswith((".attn.bias", ".attn.masked_bias"))


def is_transposed(family: Family, name: str) -> bool:
    """Whether our projection stands the other way round."""
    return family.transposed and name.startswith("blk.") and name.endswith(".weight") and "_norm." not in name


def convert_weight(name: str, value: torch.Tensor, config: PreTrainedConfig) -> Array:
    """Convert our weight into the one that llama.cpp calls `name`: (out, in), or (out,) of a norm or bias."""
    family = find_family(config)
    weight: Array = value.detach().float().cpu().numpy()
    if is_transposed(family, name):
        weight = weight.T
    if family.norms_plus_one and "norm." in name:
        weight = weight + np.float32(1)
    if family.pairs:
        weight = put_in_pairs(name, weight, config)
    return weight


def put_in_pairs(name: str, weight: Array, config: Any) -> Array:
    """Order the rows of a query's or key's heads, (out, ...), as llama.cpp rotates them: neighbors, not halves."""
    return _turn(name, weight, config, lambda rows: (2, rows // 2))


def put_in_halves(name: str, weight: Array, config: Any) -> Array:
    """Order rows, (out, ...), as they were before `put_in_pairs`."""
    return _turn(name, weight, config, lambda rows: (rows // 2, 2))


def _turn(name: str, weight: Array, config: Any, divide: Callable[[int], tuple[int, int]]) -> Array:
    heads = {"attn_q": config.num_attention_heads, "attn_k": config.num_key_value_heads}
    number = heads.get(name.split(".")[2]) if name.startswith("blk.") else None
    if number is None:
        return weight
    # (heads, 2, size / 2, ...) or (heads, size / 2, 2, ...)
    parts = weight.reshape(number, *divide(weight.shape[0] // number), *weight.shape[1:])
    return parts.swapaxes(1, 2).reshape(weight.shape)


def iterate_weights(model: PreTrainedModel) -> Iterator[tuple[str, Array]]:
    """Yield the weights of `list_weights`, (out, in) or (out,), in its order, one at a time."""
    state = model.state_dict()
    for theirs, (ours, _) in list_weights(model).items():
        yield theirs, convert_weight(theirs, state[ours], model.config)
