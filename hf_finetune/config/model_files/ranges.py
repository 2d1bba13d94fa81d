"""The range of each number of a configuration that is no size: outside of it a model computes nothing, or nonsense."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Annotated, Any

from msgspec import Meta

from hf_finetune.config.bounds import LARGEST_FACTOR, LARGEST_THETA

# A list is of the layers, one by one.
_Share = Annotated[float, Meta(ge=0, le=1)]
_Part = Annotated[float, Meta(gt=0, le=1)]
_Theta = Annotated[float, Meta(gt=0, le=LARGEST_THETA)]
_Positive = Annotated[float, Meta(gt=0, le=LARGEST_FACTOR)]
_Amount = Annotated[float, Meta(ge=0, le=LARGEST_FACTOR)]
_Factor = Annotated[float, Meta(ge=-LARGEST_FACTOR, le=LARGEST_FACTOR)]

_SHARES = (
    *("norm_eps", "rms_norm_eps", "layer_norm_eps", "layer_norm_epsilon", "layernorm_epsilon", "norm_epsilon"),
    *("attention_dropout", "attention_dropout_prob", "attention_probs_dropout_prob", "attn_pdrop", "attn_dropout"),
    *("hidden_dropout", "hidden_dropout_prob", "resid_pdrop", "resid_dropout", "residual_dropout", "embd_pdrop"),
    *("embed_dropout", "embedding_dropout", "mlp_dropout", "ffn_dropout", "activation_dropout", "dropout"),
    *("dropout_rate", "pooler_dropout", "classifier_dropout", "classifier_dropout_prob", "seq_classif_dropout"),
    *("summary_first_dropout", "layerdrop", "encoder_layerdrop", "decoder_layerdrop"),
)
# Base of the angles of rotary positions; 8,000,000 in Command R, 4.6e10 where a context was stretched to 4 M tokens.
_THETAS = ("rope_theta", "rotary_emb_base", "rope_local_base_freq", "global_rope_theta", "local_rope_theta")
_POSITIVE = (
    *("factor", "low_freq_factor", "high_freq_factor", "attention_factor", "beta_fast", "beta_slow"),
    *("attn_logit_softcapping", "final_logit_softcapping", "query_pre_attn_scalar", "logits_scaling"),
)
_AMOUNTS = ("initializer_range", "initializer_factor", "init_std", "router_aux_loss_coef", "router_z_loss_coef")
_FACTORS = (
    *("embedding_multiplier", "residual_multiplier", "attention_multiplier", "logit_scale", "routed_scaling_factor"),
    *("mscale", "mscale_all_dim"),
)

OF_NUMBERS: Mapping[str, Any] = {
    **dict.fromkeys(_SHARES, _Share | list[_Share] | None),
    **dict.fromkeys(("partial_rotary_factor", "rotary_pct"), _Part | list[_Part] | None),
    **dict.fromkeys(_THETAS, _Theta | list[_Theta] | None),
    **dict.fromkeys(_POSITIVE, _Positive | list[_Positive] | None),
    **dict.fromkeys(("short_factor", "long_factor"), Annotated[list[_Positive], Meta(max_length=100_000)] | None),
    **dict.fromkeys(_AMOUNTS, _Amount | None),
    **dict.fromkeys(_FACTORS, _Factor | list[_Factor] | None),
}
"""Of config.json and each section in it, such as `text_config` and `rope_parameters`."""
OF_DRAWING: Mapping[str, Any] = {
    **dict.fromkeys(("temperature", "guidance_scale", "diversity_penalty"), _Amount | None),
    **dict.fromkeys(("top_p", "min_p", "top_h", "typical_p", "epsilon_cutoff", "eta_cutoff"), _Share | None),
    "penalty_alpha": _Share | None,
    **dict.fromkeys(("repetition_penalty", "encoder_repetition_penalty"), _Positive | None),
    "length_penalty": _Factor | None,
}
"""Of generation_config.json."""
