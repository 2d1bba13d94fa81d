"""A model's configuration in the words of llama.cpp; what it cannot say is refused before a weight is read."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any

import numpy as np
from numpy.typing import NDArray
from transformers import PreTrainedConfig

from hf_finetune.errors import ModelError, Problem
from hf_finetune.models.gguf_folders.families import Family, find_family

Value = int | float | bool | str

# llama.cpp knows the layers of Gemma that see a window by their number alone: all but every second, or every sixth.
GEMMA_PERIODS = {"gemma2": 2, "gemma3": 6}
# Architectures whose head is always the embeddings.
TIED = ("gemma", "gemma2")
REMEDY = "export another format, or train a model that llama.cpp has"


def describe_settings(config: PreTrainedConfig) -> dict[str, Value]:
    """The settings of a model by llama.cpp's keys. Raises `ModelError` for what llama.cpp does not compute."""
    family = find_family(config)
    values = _describe_gpt2(config) if family.architecture == "gpt2" else _describe_llama(config, family)
    return {f"{family.architecture}.{key}": value for key, value in values.items()}


def find_rope_factors(config: PreTrainedConfig) -> NDArray[np.float32] | None:
    """What each rotation of Llama 3.1 is divided by: (head_dim / 2,); None for a model that has no such thing."""
    rotation: Mapping[str, Any] = getattr(config, "rope_parameters", None) or {}
    if rotation.get("rope_type") != "llama3":
        return None
    size = _head_size(config)
    # As transformers' `_compute_llama3_parameters`: long waves are stretched, short ones kept, those between mixed.
    waves = 2 * math.pi * rotation["rope_theta"] ** (np.arange(0, size, 2, dtype=np.float64) / size)
    low, high = rotation["low_freq_factor"], rotation["high_freq_factor"]
    factor, original = rotation["factor"], rotation["original_max_position_embeddings"]
    smooth = (original / waves - low) / (high - low)
    between = 1 / ((1 - smooth) / factor + smooth)
    found = np.where(waves < original / high, 1.0, np.where(waves > original / low, factor, between))
    return found.astype(np.float32)


def _describe_gpt2(config: PreTrainedConfig) -> dict[str, Value]:
    _require("activation_function", config.activation_function, "gelu_new", "gelu_pytorch_tanh")
    _require("scale_attn_weights", config.scale_attn_weights, True)
    _require("scale_attn_by_inverse_layer_idx", config.scale_attn_by_inverse_layer_idx, False)
    return {
        "context_length": config.n_positions,
        "embedding_length": config.n_embd,
        "feed_forward_length": config.n_inner or 4 * config.n_embd,
        "block_count": config.n_layer,
        "attention.head_count": config.n_head,
        "attention.layer_norm_epsilon": config.layer_norm_epsilon,
    }


def _describe_llama(config: PreTrainedConfig, family: Family) -> dict[str, Value]:
    activation = getattr(config, "hidden_activation", None) or config.hidden_act
    _require("hidden_act", activation, *family.activation)
    # llama.cpp makes room for these in a Llama alone, and does not load a file that has more weights than it asks for.
    if family.architecture != "llama":
        _require("attention_bias", bool(getattr(config, "attention_bias", False)), False)
    if family.architecture in TIED:
        _require("tie_word_embeddings", config.tie_word_embeddings, True)
    size = _head_size(config)
    values: dict[str, Value] = {
        "context_length": _context_length(config, family),
        "embedding_length": config.hidden_size,
        "feed_forward_length": config.intermediate_size,
        "block_count": config.num_hidden_layers,
        "attention.head_count": config.num_attention_heads,
        "attention.head_count_kv": config.num_key_value_heads,
        "attention.layer_norm_rms_epsilon": config.rms_norm_eps,
        "attention.key_length": size,
        "attention.value_length": size,
        "rope.dimension_count": size,
    }
    if family.architecture in ("llama", "gemma", "gemma2", "gemma3"):
        values["vocab_size"] = config.vocab_size
    return values | _describe_rotation(config, family) | _describe_gemma(config, family)


def _describe_rotation(config: PreTrainedConfig, family: Family) -> dict[str, Value]:
    rotation: Mapping[str, Any] = config.rope_parameters or {}
    # transformers has a rotation for each kind of layer where there are several.
    if family.architecture == "gemma3":  # one rotation for the layers that see all, one for those that see a window
        local = rotation["sliding_attention"]
        _require("rope_parameters.sliding_attention.rope_type", local.get("rope_type"), "default")
        rotation = rotation["full_attention"]
        return {"rope.freq_base_swa": float(local["rope_theta"])} | _describe_scaling(rotation, family)
    if family.architecture == "gemma2" and "full_attention" in rotation:
        rotation = rotation["full_attention"]
    return _describe_scaling(rotation, family)


def _describe_scaling(rotation: Mapping[str, Any], family: Family) -> dict[str, Value]:
    kind = rotation.get("rope_type", "default")
    # The factors of Llama 3.1 stand among the weights, where llama.cpp asks for them in a Llama alone.
    known = ("default", "linear", "yarn", *(["llama3"] if family.architecture == "llama" else []))
    _require("rope_parameters.rope_type", kind, *known)
    _require("rope_parameters.partial_rotary_factor", rotation.get("partial_rotary_factor", 1.0), 1.0)
    values: dict[str, Value] = {"rope.freq_base": float(rotation["rope_theta"])}
    if kind in ("default", "llama3"):
        return values
    values |= {"rope.scaling.type": kind, "rope.scaling.factor": float(rotation["factor"])}
    if kind == "yarn":
        for key, only in (("attention_factor", None), ("beta_fast", 32), ("beta_slow", 1), ("mscale", None)):
            _require(f"rope_parameters.{key}", rotation.get(key, only), None, only)
        values["rope.scaling.original_context_length"] = rotation["original_max_position_embeddings"]
    return values


def _describe_gemma(config: PreTrainedConfig, family: Family) -> dict[str, Value]:
    """What the second and third Gemma have beside; nothing of the others."""
    period = GEMMA_PERIODS.get(family.architecture)
    if period is None:
        return {}
    _require("query_pre_attn_scalar", config.query_pre_attn_scalar, _head_size(config))
    # Every second or sixth layer, counted from 1, sees all.
    layers = range(1, config.num_hidden_layers + 1)
    kinds = ["sliding_attention" if layer % period else "full_attention" for layer in layers]
    _require("layer_types", list(config.layer_types), kinds)
    values: dict[str, Value] = {"attention.sliding_window": config.sliding_window}
    for key in ("attn_logit_softcapping", "final_logit_softcapping"):
        limit = getattr(config, key, None)
        if family.architecture == "gemma3":
            _require(key, limit, None)
        else:
            _require(f"{key} (a number)", limit is not None, True)
            values[key] = float(limit or 0)
    return values


def _context_length(config: PreTrainedConfig, family: Family) -> int:
    """How many positions llama.cpp computes as the model does: of Mistral and Qwen no more than a window sees."""
    longest: int = config.max_position_embeddings
    windowed = getattr(config, "use_sliding_window", True) and getattr(config, "sliding_window", None)
    return min(longest, windowed) if windowed and family.architecture not in GEMMA_PERIODS else longest


def _head_size(config: PreTrainedConfig) -> int:
    size: int | None = getattr(config, "head_dim", None)
    return size or config.hidden_size // config.num_attention_heads


def _require(field: str, value: object, *allowed: object) -> None:
    if value not in allowed:
        what = f"llama.cpp has no such model: {field} is {value!r}, and it computes {allowed[0]!r}"
        raise ModelError(Problem(what, REMEDY, key=f"config.json: {field}", code="HF972"))
