"""A GPT from its parts, bottom up: norm, positions, attention, feed-forward, layer, model, heads.

Shapes are written (batch, seq, hidden); hidden = heads * head_dim.
"""

from collections.abc import Callable
from functools import partial
from typing import Any, Self

import torch
from torch import Tensor, nn
from torch.nn import functional as F
from transformers import initialization as init
from transformers.cache_utils import Cache, DynamicCache, DynamicLayer, StaticLayer
from transformers.generation.utils import GenerationMixin
from transformers.masking_utils import create_causal_mask
from transformers.modeling_layers import GenericForSequenceClassification, GradientCheckpointingLayer
from transformers.modeling_outputs import BaseModelOutputWithPast, CausalLMOutputWithPast
from transformers.modeling_utils import ALL_ATTENTION_FUNCTIONS, PreTrainedModel, slice_logits_to_keep
from transformers.utils.generic import can_return_tuple
from transformers.utils.output_capturing import capture_outputs

from .configuration_scratch_gpt import ScratchGPTConfig
from .convert_gpt2 import convert_gpt2


def squared_relu(hidden_states: Tensor) -> Tensor:
    """relu(x)^2 (So et al., 2021), element by element: any shape -> the same shape."""
    # As a product: the backward pass of `torch.square` is five times slower on a CPU (torch 2.13).
    positive = F.relu(hidden_states)
    return positive * positive


ACTIVATIONS: dict[str, Callable[[Tensor], Tensor]] = {
    "relu2": squared_relu,
    "silu": F.silu,
    "gelu": F.gelu,
    "gelu_new": partial(F.gelu, approximate="tanh"),  # GPT-2's: one kernel here, eight in transformers
}


def build_norm(config: ScratchGPTConfig) -> nn.Module:
    """Build LayerNorm, or RMSNorm, which neither centers nor shifts (Zhang & Sennrich, 2019): (..., hidden) -> same."""
    if config.norm_type == "layernorm":
        return nn.LayerNorm(config.hidden_size, eps=config.norm_eps, bias=config.use_bias)
    return nn.RMSNorm(config.hidden_size, eps=config.norm_eps)


def compute_rotary_tables(
    position_ids: Tensor, head_dim: int, theta: float, dtype: torch.dtype
) -> tuple[Tensor, Tensor]:
    """Compute cosines and sines of the rotation angles of each position (Su et al., 2021), for `rotate`.

    `position_ids` is (batch or 1, seq); both results are (batch or 1, seq, 1, head_dim) in `dtype`.
    """
    # In each forward pass: kept as a buffer the tables would be lost when a model is built on the meta device.
    # theta 10,000 and head_dim 4 give frequencies 1 and 0.01: position 3 turns feature pair 0 by 3 rad, pair 1 by 0.03.
    exponents = torch.arange(0, head_dim, 2, device=position_ids.device, dtype=torch.float32) / head_dim
    angles = position_ids[..., None, None] * (1 / theta**exponents)  # (batch, seq, 1, head_dim / 2), as Llama rounds
    cos, sin = angles.cos(), angles.sin()
    return torch.cat((cos, cos), dim=-1).to(dtype), torch.cat((-sin, sin), dim=-1).to(dtype)


def rotate(heads: Tensor, cos: Tensor, sin: Tensor) -> Tensor:
    """Rotate features i and i + head_dim / 2 as a pair: (batch, seq, heads, head_dim) -> the same shape.

    `cos` and `sin` are (batch or 1, seq, 1, head_dim), from `compute_rotary_tables`.
    """
    # (a, b) -> (a cos - b sin, b cos + a sin): swapping the halves gives (b, a), and `sin` holds (-sin, sin).
    first, second = heads.chunk(2, dim=-1)
    return heads * cos + torch.cat((second, first), dim=-1) * sin


def hash_ngrams(tokens: Tensor, position_ids: Tensor, order: int, rows: int) -> Tensor:
    """Number the n-grams of 2 to `order` tokens that end at each token: (batch, seq, order - 1), below order * rows.

    `tokens` (batch, order - 1 + seq) begin before `position_ids` (batch or 1, seq). 0: it would begin before the text.
    """
    seq = position_ids.shape[1]
    numbers, hashed = [], tokens[:, -seq:]
    for before in range(1, order):  # [a b c] -> (c * p + b) * p + a, modulo 2^31 - 1: int64 holds the products
        hashed = (hashed * 1_000_003 + tokens[:, order - 1 - before :][:, :seq]) % 2_147_483_647
        numbers.append((1 + (before - 1) * rows + hashed % rows) * (position_ids >= before))
    return torch.stack(numbers, dim=-1)


def repeat_heads(heads: Tensor, times: int) -> Tensor:
    """Copy each key or value head for its query heads: (batch, heads, seq, dim) -> (batch, heads * times, seq, dim)."""
    return heads if times == 1 else heads.repeat_interleave(times, dim=1)


def eager_attention_forward(
    module: "ScratchGPTAttention",
    query: Tensor,
    key: Tensor,
    value: Tensor,
    attention_mask: Tensor | None,
    scaling: float,
    dropout: float = 0.0,
    **kwargs: Any,
) -> tuple[Tensor, Tensor]:
    """Scaled dot-product attention, softmax(query key^T * scaling + mask) value, written out.

    `query` is (batch, heads, seq, head_dim), `key` and `value` (batch, key_value_heads, keys, head_dim), and
    `attention_mask` (batch, 1, seq, keys) is 0 where a query may attend and the dtype's minimum where it may not.
    Returns the output, (batch, seq, heads, head_dim), and the attention weights, (batch, heads, seq, keys).
    """
    key = repeat_heads(key, module.num_key_value_groups)
    value = repeat_heads(value, module.num_key_value_groups)
    scores = torch.matmul(query * scaling, key.transpose(2, 3))  # (batch, heads, seq, keys)
    if attention_mask is not None:
        scores = scores + attention_mask
    weights = F.softmax(scores, dim=-1, dtype=torch.float32).to(value.dtype)
    weights = F.dropout(weights, p=dropout, training=module.training)
    return torch.matmul(weights, value).transpose(1, 2), weights


class ScratchGPTAttention(nn.Module):
    """Multi-head or grouped-query attention: each token attends to itself and the tokens before it."""

    def __init__(self, config: ScratchGPTConfig, layer_idx: int) -> None:
        super().__init__()
        self.config = config
        self.layer_idx = layer_idx
        self.head_dim = config.hidden_size // config.num_attention_heads
        self.num_key_value_groups = config.num_attention_heads // config.num_key_value_heads
        self.scaling = self.head_dim**-0.5
        self.is_causal = True
        shared_size = config.num_key_value_heads * self.head_dim
        self.q_proj = nn.Linear(config.hidden_size, config.hidden_size, bias=config.use_bias)
        self.k_proj = nn.Linear(config.hidden_size, shared_size, bias=config.use_bias)
        self.v_proj = nn.Linear(config.hidden_size, shared_size, bias=config.use_bias)
        self.o_proj = nn.Linear(config.hidden_size, config.hidden_size, bias=config.use_bias)

    def forward(
        self,
        hidden_states: Tensor,
        attention_mask: Tensor | None = None,
        rotary: tuple[Tensor, Tensor] | None = None,
        past_key_values: Cache | None = None,
        **kwargs: Any,
    ) -> tuple[Tensor, Tensor | None]:
        """(batch, seq, hidden) -> the same shape, and the attention weights where the implementation returns them."""
        batch_and_seq = hidden_states.shape[:-1]
        split = (*batch_and_seq, -1, self.head_dim)
        query = self.q_proj(hidden_states).view(split)  # (batch, seq, heads, head_dim)
        key = self.k_proj(hidden_states).view(split)  # (batch, seq, key_value_heads, head_dim)
        value = self.v_proj(hidden_states).view(split)
        if self.config.qk_norm:  # bounds the scores (Henry et al., 2020)
            query = F.rms_norm(query, (self.head_dim,), eps=self.config.norm_eps)
            key = F.rms_norm(key, (self.head_dim,), eps=self.config.norm_eps)
        if rotary is not None:
            query, key = rotate(query, *rotary), rotate(key, *rotary)
        query, key, value = query.transpose(1, 2), key.transpose(1, 2), value.transpose(1, 2)
        if past_key_values is not None:
            key, value = past_key_values.update(key, value, self.layer_idx)

        attend = ALL_ATTENTION_FUNCTIONS.get_interface(self.config._attn_implementation, eager_attention_forward)
        dropout = self.config.attention_dropout if self.training else 0.0
        gathered, weights = attend(
            self, query, key, value, attention_mask, dropout=dropout, scaling=self.scaling, **kwargs
        )
        return self.o_proj(gathered.reshape(*batch_and_seq, -1)), weights


class ScratchGPTMLP(nn.Module):
    """Feed-forward, applied to each token by itself; gated (Shazeer, 2020) if the configuration says so."""

    def __init__(self, config: ScratchGPTConfig) -> None:
        super().__init__()
        self.gate_proj = None
        if config.gated_mlp:
            self.gate_proj = nn.Linear(config.hidden_size, config.intermediate_size, bias=config.use_bias)
        self.up_proj = nn.Linear(config.hidden_size, config.intermediate_size, bias=config.use_bias)
        self.down_proj = nn.Linear(config.intermediate_size, config.hidden_size, bias=config.use_bias)
        self.activation = ACTIVATIONS[config.hidden_act]

    def forward(self, hidden_states: Tensor) -> Tensor:
        """(batch, seq, hidden) -> the same shape."""
        wide = self.up_proj(hidden_states)  # (batch, seq, intermediate)
        if self.gate_proj is None:
            return self.down_proj(self.activation(wide))
        return self.down_proj(self.activation(self.gate_proj(hidden_states)) * wide)


class ScratchGPTDecoderLayer(GradientCheckpointingLayer):
    """Pre-norm transformer layer: x + attention(norm(x)), then x + feed-forward(norm(x))."""

    def __init__(self, config: ScratchGPTConfig, layer_idx: int) -> None:
        super().__init__()
        self.input_layernorm = build_norm(config)
        self.self_attn = ScratchGPTAttention(config, layer_idx)
        self.post_attention_layernorm = build_norm(config)
        self.mlp = ScratchGPTMLP(config)
        self.dropout = nn.Dropout(config.hidden_dropout)

    def forward(
        self,
        hidden_states: Tensor,
        attention_mask: Tensor | None = None,
        rotary: tuple[Tensor, Tensor] | None = None,
        past_key_values: Cache | None = None,
        **kwargs: Any,
    ) -> Tensor:
        """(batch, seq, hidden) -> the same shape."""
        gathered, _ = self.self_attn(
            self.input_layernorm(hidden_states), attention_mask, rotary, past_key_values, **kwargs
        )
        hidden_states = hidden_states + self.dropout(gathered)
        return hidden_states + self.dropout(self.mlp(self.post_attention_layernorm(hidden_states)))


class ScratchGPTPreTrainedModel(PreTrainedModel):
    """Base of all ScratchGPT classes: loading, saving, initial weights, supported features of transformers."""

    config: ScratchGPTConfig  # read at run time: this module cannot have `from __future__ import annotations`
    base_model_prefix = "model"
    supports_gradient_checkpointing = True
    _no_split_modules = ["ScratchGPTDecoderLayer"]  # noqa: RUF012
    _skip_keys_device_placement = ["past_key_values"]  # noqa: RUF012
    _supports_flash_attn = True
    _supports_sdpa = True
    _supports_flex_attn = True
    _supports_attention_backend = True
    _can_compile_fullgraph = True
    _can_record_outputs = {"hidden_states": ScratchGPTDecoderLayer, "attentions": ScratchGPTAttention}  # noqa: RUF012

    def _init_weights(self, module: nn.Module) -> None:
        """Initialize the weights of one module, in place; `init` skips those that were loaded."""
        # For code outside transformers, 5.23 calls this only with modules that own weights: `ScratchGPTAttention` never
        # comes, so that its layers are told apart by name.
        super()._init_weights(module)
        name = next((name for name, child in self.named_modules() if child is module), "").rpartition(".")[2]
        modern = self.config.family == "modern"
        if isinstance(module, nn.Embedding) and name == "embed_ngrams":  # a rare one leaves its tokens as they are
            init.zeros_(module.weight)
        elif isinstance(module, nn.Embedding) and modern and not self.config.tie_word_embeddings:
            # The norms rescale the residual stream, so that its size is free. At 1.0 a branch changes a token little at
            # first; at 0.02 it outweighs the token embedding from the first step on, and training takes more steps.
            init.normal_(module.weight, std=1.0)
        if not isinstance(module, nn.Linear):
            return
        writes_to_residual = name in ("o_proj", "down_proj")
        if not modern:
            if writes_to_residual:  # two branches per layer add to the stream (Radford et al., 2019, section 2.3)
                std = self.config.initializer_range / (2 * self.config.num_hidden_layers) ** 0.5
                init.normal_(module.weight, std=std)
        elif writes_to_residual or (name == "lm_head" and not self.config.tie_word_embeddings):
            # Branches add 0, and all tokens are equally likely at first (Yang et al., 2022, appendix D).
            init.zeros_(module.weight)
        elif name in ("q_proj", "k_proj", "v_proj", "up_proj", "gate_proj"):
            init.normal_(module.weight, std=module.in_features**-0.5)  # keeps the variance of features at any width

    def save_pretrained(self, save_directory: Any, *args: Any, **kwargs: Any) -> None:
        """Save as transformers does; the Auto classes can load the folder even without hf_finetune installed."""
        self.config.auto_map = {
            "AutoConfig": "configuration_scratch_gpt.ScratchGPTConfig",
            "AutoModel": "modeling_scratch_gpt.ScratchGPTModel",
            "AutoModelForCausalLM": "modeling_scratch_gpt.ScratchGPTForCausalLM",
            "AutoModelForSequenceClassification": "modeling_scratch_gpt.ScratchGPTForSequenceClassification",
        }
        super().save_pretrained(save_directory, *args, **kwargs)


class ScratchGPTModel(ScratchGPTPreTrainedModel):
    """The decoder without a head: token ids (batch, seq) -> normalized hidden states (batch, seq, hidden)."""

    def __init__(self, config: ScratchGPTConfig) -> None:
        super().__init__(config)
        self.embed_tokens = nn.Embedding(config.vocab_size, config.hidden_size)
        self.embed_ngrams = None
        if config.ngram_order > 1:  # as many rows for each length, and row 0, which stays zero
            rows = 1 + (config.ngram_order - 1) * config.ngram_vocab_size
            self.embed_ngrams = nn.Embedding(rows, config.hidden_size, padding_idx=0)
        self.embed_positions = None
        if config.position_embedding_type == "learned":
            self.embed_positions = nn.Embedding(config.max_position_embeddings, config.hidden_size)
        self.dropout = nn.Dropout(config.hidden_dropout)
        self.layers = nn.ModuleList(ScratchGPTDecoderLayer(config, index) for index in range(config.num_hidden_layers))
        self.norm = build_norm(config)
        self.gradient_checkpointing = False
        self.post_init()

    @capture_outputs
    def forward(
        self,
        input_ids: Tensor | None = None,
        attention_mask: Tensor | None = None,
        position_ids: Tensor | None = None,
        past_key_values: Cache | None = None,
        inputs_embeds: Tensor | None = None,
        use_cache: bool | None = None,
        **kwargs: Any,
    ) -> BaseModelOutputWithPast:
        """`input_ids` (batch, seq) or `inputs_embeds` (batch, seq, hidden) -> hidden states (batch, seq, hidden).

        Packed documents are told apart by `position_ids` (batch, seq) that restart at 0, without an `attention_mask`.
        By default positions count the tokens that `attention_mask` (batch, seq) keeps, so that padding may be on either
        side. Raises ValueError for both or neither of the inputs, and for a position without a learned embedding.
        """
        if (input_ids is None) == (inputs_embeds is None):
            raise ValueError("give either input_ids or inputs_embeds")
        if inputs_embeds is None:
            inputs_embeds = self.embed_tokens(input_ids)
        # Before a cache is made: with one, transformers 5.23 (masking_utils.py) ignores the restarts in `position_ids`.
        causal_mask = create_causal_mask(self.config, inputs_embeds, attention_mask, past_key_values, position_ids)
        in_range = position_ids is None and inputs_embeds.shape[1] <= self.config.max_position_embeddings
        if position_ids is None:
            position_ids = self._count_positions(inputs_embeds, attention_mask, past_key_values)
        if use_cache is None:
            use_cache = self.config.use_cache and not self.training
        if use_cache and past_key_values is None:
            past_key_values = DynamicCache(config=self.config)
        if self.embed_ngrams is not None:
            tokens = self._extend(input_ids, past_key_values)
            numbers = hash_ngrams(tokens, position_ids, self.config.ngram_order, self.config.ngram_vocab_size)
            inputs_embeds = inputs_embeds + self.embed_ngrams(numbers).sum(dim=-2)

        rotary = None
        if self.embed_positions is None:
            head_dim = self.config.hidden_size // self.config.num_attention_heads
            rotary = compute_rotary_tables(position_ids, head_dim, self.config.rope_theta, inputs_embeds.dtype)
        else:
            if past_key_values is not None or not in_range:  # reads the values, for which a GPU must synchronize
                self._check_positions(position_ids)
            inputs_embeds = inputs_embeds + self.embed_positions(position_ids)
        hidden_states = self.dropout(inputs_embeds)  # (batch, seq, hidden)
        for layer in self.layers:
            hidden_states = layer(
                hidden_states, causal_mask, rotary, past_key_values=past_key_values, position_ids=position_ids, **kwargs
            )
        return BaseModelOutputWithPast(last_hidden_state=self.norm(hidden_states), past_key_values=past_key_values)

    def _extend(self, input_ids: Tensor | None, cache: Cache | None) -> Tensor:
        """Put the tokens before `input_ids` (batch, seq) in front of them: (batch, ngram_order - 1 + seq)."""
        before, index = self.config.ngram_order - 1, self.config.num_hidden_layers
        if input_ids is None:
            raise ValueError(f"give input_ids, not embeddings: n-grams are of tokens (ngram_order {before + 1})")
        if cache is None:
            return F.pad(input_ids, (before, 0))
        # In a layer of the cache behind those of keys and values: a beam search reorders and a crop shortens it too.
        if len(cache.layers) == index and cache.layer_class_to_replicate is None:
            static = isinstance(cache.layers[0], StaticLayer)
            cache.layers.append(StaticLayer(cache.get_max_length(0)) if static else DynamicLayer())
        places = torch.arange(-before, input_ids.shape[1], device=input_ids.device) + cache.get_seq_length()
        states = input_ids[:, None, :, None]  # of one head with one feature
        return cache.update(states, states, index)[0][:, 0, :, 0][:, places.clamp(min=0)]

    @staticmethod
    def _count_positions(embeds: Tensor, attention_mask: Tensor | None, past_key_values: Cache | None) -> Tensor:
        """Count the tokens before each token: embeds (batch, seq, hidden) -> positions (batch or 1, seq), int64."""
        # attention_mask [0, 0, 1, 1, 1] -> [0, 0, 0, 1, 2]; [1, 1, 1, 0, 0] -> [0, 1, 2, 2, 2]: padding is never read.
        seq = embeds.shape[1]
        if isinstance(attention_mask, Tensor) and attention_mask.ndim == 2:
            return (attention_mask.long().cumsum(dim=-1) - 1).clamp(min=0)[:, -seq:]
        past = 0 if past_key_values is None else past_key_values.get_seq_length()
        return (torch.arange(seq, device=embeds.device) + past).unsqueeze(0)

    def _check_positions(self, position_ids: Tensor) -> None:
        """Raise ValueError for a position in `position_ids` (batch or 1, seq) without an embedding.

        The index error would name no number, and on a GPU it would abort the process.
        """
        if torch.compiler.is_compiling():
            return
        highest, limit = int(position_ids.max()), self.config.max_position_embeddings
        if highest >= limit:
            raise ValueError(
                f"token {highest + 1:,} of a text has no position: this model learned {limit:,} positions "
                f"(max_position_embeddings); shorten the text, or the tokens to generate, to {limit:,} tokens in all"
            )


class ScratchGPTForCausalLM(ScratchGPTPreTrainedModel, GenerationMixin):
    """Predict the next token: logits are lm_head(last hidden state) and nothing else, as fused losses assume."""

    _tied_weights_keys = {"lm_head.weight": "model.embed_tokens.weight"}  # noqa: RUF012

    def __init__(self, config: ScratchGPTConfig) -> None:
        super().__init__(config)
        self.model = ScratchGPTModel(config)
        self.lm_head = nn.Linear(config.hidden_size, config.vocab_size, bias=False)
        self.post_init()

    @can_return_tuple
    def forward(
        self,
        input_ids: Tensor | None = None,
        attention_mask: Tensor | None = None,
        position_ids: Tensor | None = None,
        past_key_values: Cache | None = None,
        inputs_embeds: Tensor | None = None,
        labels: Tensor | None = None,
        use_cache: bool | None = None,
        logits_to_keep: int | Tensor = 0,
        **kwargs: Any,
    ) -> CausalLMOutputWithPast:
        """Compute logits (batch, seq, vocab), of the last `logits_to_keep` positions if given, and the loss of labels.

        `labels` (batch, seq) are shifted here; `shift_labels` (batch, seq) are not, and hold where both are given. -100
        is ignored. The loss is the mean over the other labels, or their sum divided by `num_items_in_batch`; 0 where
        all are ignored.
        """
        outputs = self.model(
            input_ids, attention_mask, position_ids, past_key_values, inputs_embeds, use_cache, **kwargs
        )
        logits = self.lm_head(slice_logits_to_keep(outputs.last_hidden_state, logits_to_keep))  # (batch, seq, vocab)
        loss = None
        shift_labels = kwargs.get("shift_labels")
        if labels is not None or shift_labels is not None:
            if kwargs.get("num_items_in_batch") is None:
                targets: Any = shift_labels if labels is None or shift_labels is not None else labels[..., 1:]
                kwargs["num_items_in_batch"] = (targets != -100).sum().clamp(min=1)
            loss = self.loss_function(logits=logits, labels=labels, vocab_size=self.config.vocab_size, **kwargs)
        return CausalLMOutputWithPast(
            loss=loss,
            logits=logits,
            past_key_values=outputs.past_key_values,
            hidden_states=outputs.hidden_states,
            attentions=outputs.attentions,
        )

    @classmethod
    def from_gpt2(cls, path_or_model: str | PreTrainedModel) -> Self:
        """Convert a Hugging Face GPT-2 of any size, a folder, a Hub id or a `GPT2LMHeadModel`; the logits are equal.

        Raises ValueError for settings of GPT-2 that ScratchGPT does not support.
        """
        return convert_gpt2(cls, path_or_model)


class ScratchGPTForSequenceClassification(GenericForSequenceClassification, ScratchGPTPreTrainedModel):
    """Classify a text by the hidden state of its last token that is not `pad_token_id`: logits (batch, labels)."""

    # The loss takes no num_items_in_batch; knowing that, Trainer divides it by the accumulation steps.
    accepts_loss_kwargs = False

    def __init__(self, config: ScratchGPTConfig) -> None:
        # Not the generic __init__: it asks AutoModel for the backbone, which is not registered without hf_finetune.
        super(GenericForSequenceClassification, self).__init__(config)
        self.num_labels = config.num_labels
        self.model = ScratchGPTModel(config)
        # With a bias, unlike the heads of transformers: it can hold decision thresholds.
        self.score = nn.Linear(config.hidden_size, config.num_labels)  # type: ignore[arg-type]
        self.post_init()


__all__ = [
    "ScratchGPTForCausalLM", "ScratchGPTForSequenceClassification", "ScratchGPTModel", "ScratchGPTPreTrainedModel",
]  # fmt: skip
