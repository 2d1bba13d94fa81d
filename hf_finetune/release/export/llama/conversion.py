"""A ScratchGPT -> the architecture of transformers that computes the same, whose name other runtimes know."""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterator
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from torch import Tensor
    from transformers import PreTrainedConfig, PreTrainedModel

    from hf_finetune.models.scratch_gpt import ScratchGPTConfig, ScratchGPTForCausalLM

_MODERN = {"ngram_order": (1,), "position_embedding_type": ("rotary",), "norm_type": ("rmsnorm",)}
_GATED = {**_MODERN, "gated_mlp": (True,), "hidden_act": ("silu",)}
_UNGATED = {**_MODERN, "gated_mlp": (False,), "hidden_act": ("relu2",)}

# What each field may be, and all of them decide; any other field can be anything. transformers would take more
# activations, but llama.cpp computes that of the published models without reading its name, and vLLM refuses others.
ARCHITECTURES: dict[str, dict[str, tuple[Any, ...]]] = {
    "LlamaForCausalLM": {**_GATED, "qk_norm": (False,)},
    "Qwen3ForCausalLM": {**_GATED, "qk_norm": (True,), "use_bias": (False,)},
    "ArceeForCausalLM": {**_UNGATED, "qk_norm": (False,)},
    "ApertusForCausalLM": {**_UNGATED, "qk_norm": (True,), "use_bias": (False,)},
    "GPT2LMHeadModel": {
        "ngram_order": (1,),
        "position_embedding_type": ("learned",),
        "norm_type": ("layernorm",),
        "gated_mlp": (False,),
        "hidden_act": ("gelu_new", "gelu"),
        "qk_norm": (False,),
    },
}
TRANSFORMERS_ALONE = ("ApertusForCausalLM",)
"""Architectures whose activation is xIELU wherever else they are known: vLLM refuses another, llama.cpp has none."""

_GPT2_MODULES = {
    "input_layernorm": "ln_1",
    "self_attn.o_proj": "attn.c_proj",
    "post_attention_layernorm": "ln_2",
    "mlp.up_proj": "mlp.c_fc",
    "mlp.down_proj": "mlp.c_proj",
}
_APERTUS_NORMS = {
    "input_layernorm": "attention_layernorm",
    "post_attention_layernorm": "feedforward_layernorm",
}


@dataclass(frozen=True, slots=True)
class Fit:
    """The architecture that a configuration needs the fewest changes for, and those changes: none if it is exact."""

    architecture: str
    obstacles: tuple[str, ...]


def find_architecture(config: ScratchGPTConfig, among: Collection[str] = tuple(ARCHITECTURES)) -> Fit:
    """Find the architecture that computes a ScratchGPT exactly, or the nearest one and what stands in its way."""
    fits = [Fit(name, tuple(_list_obstacles(config, ARCHITECTURES[name]))) for name in among]
    return min(fits, key=lambda fit: len(fit.obstacles))


def describe_published(config: ScratchGPTConfig, architecture: str) -> PreTrainedConfig:
    """The configuration of a ScratchGPT as `architecture`, which computes it."""
    import transformers

    config_class = getattr(transformers, architecture).config_class
    convert = _convert_to_gpt2_config if architecture == "GPT2LMHeadModel" else _convert_to_modern_config
    published = convert(config, config_class)
    # Written by `save_pretrained` of a model alone, and not by that of a configuration.
    published.architectures = [architecture]
    return published


def _list_obstacles(config: ScratchGPTConfig, allowed: dict[str, tuple[Any, ...]]) -> Iterator[str]:
    for field, values in allowed.items():
        if (value := getattr(config, field)) not in values:
            wanted = " or ".join(_as_written(one) for one in values)
            yield f"{field}={_as_written(value)} (it must be {wanted})"


def _as_written(value: Any) -> str:
    return str(value).lower() if isinstance(value, bool) else str(value)


def convert_to_published(model: ScratchGPTForCausalLM) -> PreTrainedModel:
    """Build the model of `find_architecture` with the same weights, device and precision; it computes the same logits.

    Raises ValueError that names every obstacle.
    """
    import transformers
    from transformers import initialization as init

    fit = find_architecture(model.config)
    if fit.obstacles:
        raise ValueError(f"{fit.architecture} does not compute this ScratchGPT: {', '.join(fit.obstacles)}")
    convert_weights = _convert_to_gpt2_weights if fit.architecture == "GPT2LMHeadModel" else _convert_to_modern_weights
    with init.no_init_weights():  # which would take longer than the conversion
        published: Any = getattr(transformers, fit.architecture)(describe_published(model.config, fit.architecture))
    published.to(model.device, model.dtype)
    published.load_state_dict(convert_weights(model, fit.architecture))
    published.tie_weights()
    published.generation_config = model.generation_config
    converted: PreTrainedModel = published.eval()
    return converted


def _list_common_fields(config: ScratchGPTConfig) -> dict[str, Any]:
    # Special tokens are given where they are None too: of GPT-2 and Llama those of the published models would hold.
    sizes = ("vocab_size", "hidden_size", "num_hidden_layers", "num_attention_heads", "max_position_embeddings")
    others = ("use_cache", "tie_word_embeddings", "pad_token_id", "bos_token_id", "eos_token_id")
    return {name: getattr(config, name) for name in (*sizes, *others)}


def _convert_to_modern_config(config: ScratchGPTConfig, config_class: type[PreTrainedConfig]) -> PreTrainedConfig:
    fields = {
        **_list_common_fields(config),
        "num_key_value_heads": config.num_key_value_heads,
        "intermediate_size": config.intermediate_size,
        "hidden_act": config.hidden_act,
        "rms_norm_eps": config.norm_eps,
        "rope_parameters": {"rope_type": "default", "rope_theta": float(config.rope_theta)},
        "attention_dropout": config.attention_dropout,
        "attention_bias": config.use_bias,
        "mlp_bias": config.use_bias,
        "head_dim": config.hidden_size // config.num_attention_heads,
    }
    known = config_class.__dataclass_fields__
    return config_class(**{name: value for name, value in fields.items() if name in known})


def _convert_to_modern_weights(model: ScratchGPTForCausalLM, architecture: str) -> dict[str, Tensor]:
    """Rename the weights: those of Llama and Arcee have the same names here."""
    import torch

    weights = model.state_dict()
    if architecture == "ApertusForCausalLM":
        for ours, theirs in _APERTUS_NORMS.items():
            weights = {name.replace(ours, theirs): weight for name, weight in weights.items()}
    if model.config.qk_norm:
        # Ours have no weights: of ones theirs compute the same.
        ones = torch.ones(model.config.hidden_size // model.config.num_attention_heads)
        for layer in range(model.config.num_hidden_layers):
            weights |= {f"model.layers.{layer}.self_attn.{letter}_norm.weight": ones for letter in "qk"}
    return weights


def _convert_to_gpt2_config(
    config: ScratchGPTConfig, config_class: Callable[..., PreTrainedConfig]
) -> PreTrainedConfig:
    return config_class(
        **_list_common_fields(config),
        n_inner=config.intermediate_size,
        activation_function=config.hidden_act,
        layer_norm_epsilon=config.norm_eps,
        attn_pdrop=config.attention_dropout,
        resid_pdrop=config.hidden_dropout,
        embd_pdrop=config.hidden_dropout,
    )


def _convert_to_gpt2_weights(model: ScratchGPTForCausalLM, architecture: str) -> dict[str, Tensor]:
    """Rename the weights; linear ones are stored as (in, out), biases that ours lacks are zeros."""
    import torch

    config, source = model.config, model.state_dict()
    if not config.use_bias:
        biased = [name for name in source if "norm" in name or "_proj" in name]
        source |= {name.removesuffix("weight") + "bias": torch.zeros(len(source[name])) for name in biased}
    converted = {
        "transformer.wte.weight": source["model.embed_tokens.weight"],
        "transformer.wpe.weight": source["model.embed_positions.weight"],
        "lm_head.weight": source["lm_head.weight"],
    }
    times = config.num_attention_heads // config.num_key_value_heads
    head_dim = config.hidden_size // config.num_attention_heads
    for kind in ("weight", "bias"):
        converted[f"transformer.ln_f.{kind}"] = source[f"model.norm.{kind}"]
        for layer in range(config.num_hidden_layers):
            ours, theirs = f"model.layers.{layer}", f"transformer.h.{layer}"
            for old, new in _GPT2_MODULES.items():
                converted[f"{theirs}.{new}.{kind}"] = source[f"{ours}.{old}.{kind}"].t()
            query, key, value = (source[f"{ours}.self_attn.{letter}_proj.{kind}"] for letter in "qkv")
            # GPT-2 has as many key heads as query heads: each shared one is written once for every query head.
            key, value = (
                part.unflatten(0, (-1, head_dim)).repeat_interleave(times, dim=0).flatten(0, 1) for part in (key, value)
            )
            converted[f"{theirs}.attn.c_attn.{kind}"] = torch.cat((query, key, value)).t()
    return converted
