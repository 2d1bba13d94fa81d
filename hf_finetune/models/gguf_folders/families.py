"""The kinds of models that GGUF files are written of here, and llama.cpp's names for their weights."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from transformers import PreTrainedConfig

from hf_finetune.errors import ModelError, Problem


@dataclass(frozen=True, slots=True)
class Family:
    """How the models of one kind are stored: https://github.com/ggml-org/ggml/blob/master/docs/gguf.md."""

    architecture: str
    """What llama.cpp calls it."""
    layers: str
    """What stands before the number of a layer in the name of a weight."""
    parts: Mapping[str, str]
    """The weights of a layer: theirs by ours."""
    outside: Mapping[str, str]
    """The other weights."""
    activation: tuple[str, ...]
    """What llama.cpp computes between the projections of a layer; it takes no other."""
    pairs: bool = False
    """The rows of a query's and a key's head stand in pairs that are rotated, and not in halves."""
    norms_plus_one: bool = False
    """A norm's weight is stored with the 1 that the model adds to it."""
    transposed: bool = False
    """Projections are `Conv1D`, whose weights stand the other way round."""


ATTENTION = {
    "self_attn.q_proj": "attn_q",
    "self_attn.k_proj": "attn_k",
    "self_attn.v_proj": "attn_v",
    "self_attn.o_proj": "attn_output",
}
MLP = {"mlp.gate_proj": "ffn_gate", "mlp.up_proj": "ffn_up", "mlp.down_proj": "ffn_down"}
NORMS = {"input_layernorm": "attn_norm", "post_attention_layernorm": "ffn_norm"}
NORMS_OF_HEADS = {"self_attn.q_norm": "attn_q_norm", "self_attn.k_norm": "attn_k_norm"}
FOUR_NORMS = {
    "input_layernorm": "attn_norm",
    "post_attention_layernorm": "post_attention_norm",
    "pre_feedforward_layernorm": "ffn_norm",
    "post_feedforward_layernorm": "post_ffw_norm",
}
LLAMA_OUTSIDE = {"model.embed_tokens": "token_embd", "model.norm": "output_norm", "lm_head": "output"}
LAYERS = "model.layers."
SILU, GELU = ("silu", "swish"), ("gelu_pytorch_tanh", "gelu_new")

GPT2_PARTS = {
    "ln_1": "attn_norm",
    "attn.c_attn": "attn_qkv",
    "attn.c_proj": "attn_output",
    "ln_2": "ffn_norm",
    "mlp.c_fc": "ffn_up",
    "mlp.c_proj": "ffn_down",
}
GPT2_OUTSIDE = {
    "transformer.wte": "token_embd",
    "transformer.wpe": "position_embd",
    "transformer.ln_f": "output_norm",
    "lm_head": "output",
}

_LLAMA = Family("llama", LAYERS, ATTENTION | MLP | NORMS, LLAMA_OUTSIDE, SILU, pairs=True)
_GEMMA2_PARTS = ATTENTION | MLP | FOUR_NORMS

FAMILIES: Mapping[str, Family] = {
    "llama": _LLAMA,
    "mistral": _LLAMA,
    "qwen2": Family("qwen2", LAYERS, ATTENTION | MLP | NORMS, LLAMA_OUTSIDE, SILU),
    "qwen3": Family("qwen3", LAYERS, ATTENTION | MLP | NORMS | NORMS_OF_HEADS, LLAMA_OUTSIDE, SILU),
    "gemma": Family("gemma", LAYERS, ATTENTION | MLP | NORMS, LLAMA_OUTSIDE, GELU, norms_plus_one=True),
    "gemma2": Family("gemma2", LAYERS, _GEMMA2_PARTS, LLAMA_OUTSIDE, GELU, norms_plus_one=True),
    "gemma3_text": Family("gemma3", LAYERS, _GEMMA2_PARTS | NORMS_OF_HEADS, LLAMA_OUTSIDE, GELU, norms_plus_one=True),
    "gpt2": Family("gpt2", "transformer.h.", GPT2_PARTS, GPT2_OUTSIDE, GELU, transposed=True),
}
"""By the `model_type` of a configuration."""


def find_family(config: PreTrainedConfig) -> Family:
    """The family of a model. Raises `ModelError` for one that is not among them."""
    family = FAMILIES.get(config.model_type)
    if family is None:
        what = f"a model of the kind {config.model_type!r} is not written as GGUF"
        raise ModelError(Problem(what, f"those that are: {', '.join(sorted(FAMILIES))}", code="HF972"))
    return family


def rename(family: Family, name: str) -> str | None:
    """llama.cpp's name for the weight `name`, such as `blk.0.attn_q.weight`; None where it has no place for it."""
    module, _, kind = name.rpartition(".")
    if kind not in ("weight", "bias"):
        return None
    if module in family.outside:
        return f"{family.outside[module]}.{kind}"
    number, _, part = module.removeprefix(family.layers).partition(".")
    if not module.startswith(family.layers) or not number.isdecimal() or part not in family.parts:
        return None
    return f"blk.{number}.{family.parts[part]}.{kind}"
