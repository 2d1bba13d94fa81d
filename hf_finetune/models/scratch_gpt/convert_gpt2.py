"""Convert a Hugging Face GPT-2 to the gpt2 family of ScratchGPT."""

from __future__ import annotations

from typing import Any, TypeVar

from torch import Tensor
from transformers import GPT2Config, GPT2LMHeadModel, PreTrainedModel
from transformers import initialization as init
from transformers.pytorch_utils import Conv1D

ACTIVATION_NAMES = {"gelu_new": "gelu_new", "gelu_pytorch_tanh": "gelu_new", "gelu": "gelu"}
LAYER_MODULES = {
    "ln_1": "input_layernorm",
    "attn.c_proj": "self_attn.o_proj",
    "ln_2": "post_attention_layernorm",
    "mlp.c_fc": "mlp.up_proj",
    "mlp.c_proj": "mlp.down_proj",
}

Model = TypeVar("Model", bound=PreTrainedModel)


def convert_gpt2(model_class: type[Model], path_or_model: str | PreTrainedModel) -> Model:
    """Make a ScratchGPTForCausalLM of a GPT-2. Raises ValueError for settings that it does not support."""
    source = load_gpt2(path_or_model)
    config_class: Any = model_class.config_class
    with init.no_init_weights():  # which would take longer than the conversion
        model: Any = model_class(config_class(**convert_gpt2_config(source.config)))
    model.load_state_dict(convert_gpt2_weights(source))
    model.tie_weights()
    model.generation_config = source.generation_config
    converted: Model = model.to(source.device, source.dtype)
    return converted


def load_gpt2(path_or_model: str | PreTrainedModel) -> GPT2LMHeadModel:
    """Load a GPT-2 from a folder or the Hub; a loaded one is returned as it is. Raises ValueError for other models."""
    model = path_or_model
    if not isinstance(model, PreTrainedModel):
        model = GPT2LMHeadModel.from_pretrained(model)
    if not isinstance(model, GPT2LMHeadModel):
        raise ValueError(f"from_gpt2 takes a GPT2LMHeadModel, not a {type(model).__name__}")
    return model


def convert_gpt2_config(gpt2: GPT2Config) -> dict[str, Any]:
    """Convert to the fields of a ScratchGPTConfig. Raises ValueError that names all settings it does not support."""
    unsupported = {
        f"activation_function={gpt2.activation_function!r}": gpt2.activation_function not in ACTIVATION_NAMES,
        "scale_attn_weights=False": not gpt2.scale_attn_weights,
        "scale_attn_by_inverse_layer_idx=True": gpt2.scale_attn_by_inverse_layer_idx,
        "reorder_and_upcast_attn=True": gpt2.reorder_and_upcast_attn,
        "add_cross_attention=True": gpt2.add_cross_attention,
        f"embd_pdrop={gpt2.embd_pdrop} beside resid_pdrop={gpt2.resid_pdrop}": gpt2.embd_pdrop != gpt2.resid_pdrop,
    }
    if any(unsupported.values()):
        named = ", ".join(setting for setting, found in unsupported.items() if found)
        raise ValueError(f"ScratchGPT does not compute what this GPT-2 asks for: {named}")
    return {
        "family": "gpt2",
        "vocab_size": gpt2.vocab_size,
        "hidden_size": gpt2.n_embd,
        "num_hidden_layers": gpt2.n_layer,
        "num_attention_heads": gpt2.n_head,
        "intermediate_size": gpt2.n_inner,
        "max_position_embeddings": gpt2.n_positions,
        "hidden_act": ACTIVATION_NAMES[gpt2.activation_function],
        "norm_eps": gpt2.layer_norm_epsilon,
        "attention_dropout": gpt2.attn_pdrop,
        "hidden_dropout": gpt2.resid_pdrop,
        "initializer_range": gpt2.initializer_range,
        "tie_word_embeddings": gpt2.tie_word_embeddings,
        "pad_token_id": gpt2.pad_token_id,
        "bos_token_id": gpt2.bos_token_id,
        "eos_token_id": gpt2.eos_token_id,
    }


def convert_gpt2_weights(gpt2: GPT2LMHeadModel) -> dict[str, Tensor]:
    """Convert to the state dict of a ScratchGPTForCausalLM; linear weights are (out, in), views of those of `gpt2`."""
    source = gpt2.state_dict()
    for name, module in gpt2.named_modules():
        if isinstance(module, Conv1D):  # stores the weight of a linear layer as (in, out)
            source[f"{name}.weight"] = source[f"{name}.weight"].T
    converted = {
        "model.embed_tokens.weight": source["transformer.wte.weight"],
        "model.embed_positions.weight": source["transformer.wpe.weight"],
        "lm_head.weight": source["lm_head.weight"],
    }
    for kind in ("weight", "bias"):
        converted[f"model.norm.{kind}"] = source[f"transformer.ln_f.{kind}"]
        for layer in range(gpt2.config.n_layer):
            old_layer, new_layer = f"transformer.h.{layer}", f"model.layers.{layer}"
            for old, new in LAYER_MODULES.items():
                converted[f"{new_layer}.{new}.{kind}"] = source[f"{old_layer}.{old}.{kind}"]
            # c_attn is one layer: after the transpose its weight is (3 * hidden, hidden), its bias (3 * hidden,).
            for letter, part in zip("qkv", source[f"{old_layer}.attn.c_attn.{kind}"].chunk(3), strict=True):
                converted[f"{new_layer}.self_attn.{letter}_proj.{kind}"] = part
    return converted
