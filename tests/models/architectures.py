"""Tiny random models of the families that transformers ships, each a folder as the Hub has it, for the tests of all.

`FAMILIES` says how each differs from the sizes that all share; `save_family` writes one.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

import torch
from tokenizers import Tokenizer, models, normalizers, processors
from transformers import (
    AutoConfig,
    AutoModelForCausalLM,
    AutoModelForMaskedLM,
    AutoModelForSeq2SeqLM,
    PreTrainedModel,
    PreTrainedTokenizerFast,
)

from hf_finetune.chat.built_in import read_built_in
from hf_finetune.chat.special_tokens import add_control_tokens
from hf_finetune.models.tokenizer_training import train_tokenizer

Kind = Literal["decoder", "encoder", "encoder-decoder"]
AUTO: Mapping[Kind, Any] = {
    "decoder": AutoModelForCausalLM,
    "encoder": AutoModelForMaskedLM,
    "encoder-decoder": AutoModelForSeq2SeqLM,
}

LETTERS = "abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ0123456789 .,:?!\n"
POSITIONS = 128
SIZES = {
    "hidden_size": 32,
    "intermediate_size": 48,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "head_dim": 8,
    "max_position_embeddings": POSITIONS,
}
BERT = {name: SIZES[name] for name in SIZES if name not in ("num_key_value_heads", "head_dim")}
GPT2 = {"n_embd": 32, "n_layer": 2, "n_head": 4, "n_positions": POSITIONS}
BART = {"d_model": 32, "max_position_embeddings": POSITIONS} | {
    f"{stack}_{part}": size
    for stack in ("encoder", "decoder")
    for part, size in {"layers": 2, "attention_heads": 4, "ffn_dim": 48}.items()
}
EXPERTS = {"num_local_experts": 4, "num_experts_per_tok": 2}
FINE_EXPERTS = {"num_experts": 4, "num_experts_per_tok": 2, "moe_intermediate_size": 16}
SHARED_EXPERT = {"shared_expert_intermediate_size": 16}
MAMBA2 = {"mamba_n_heads": 8, "mamba_d_head": 8, "mamba_d_state": 8, "mamba_chunk_size": 16, "mamba_n_groups": 1}
MAMBA = {"state_size": 8, "hidden_size": 32, "num_hidden_layers": 2}


@dataclass(frozen=True)
class Family:
    """One `model_type` of transformers: the fields of its tiny configuration, and what a folder of it holds."""

    fields: Mapping[str, Any]
    kind: Kind = "decoder"
    tied: bool | None = None
    """Whether embedding and head share one weight; None for the default of the family."""
    tokenizer: str | None = None
    """One of `TOKENIZERS`; None for that of its kind."""
    generation: Mapping[str, Any] = field(default_factory=dict)
    """More keys of its generation_config.json."""


FAMILIES: Mapping[str, Family] = {
    # Decoders
    "llama": Family(SIZES),
    "mistral": Family(SIZES | {"sliding_window": 16}, tied=True),
    "qwen2": Family(SIZES, tied=True, generation={"temperature": 0.7, "top_p": 0.8}),
    "qwen3": Family(SIZES),
    "gemma": Family(SIZES),
    "gemma2": Family(SIZES | {"query_pre_attn_scalar": 8, "sliding_window": 16}),
    "gemma3_text": Family(SIZES | {"query_pre_attn_scalar": 8, "sliding_window": 16}),
    "gpt2": Family(GPT2, generation={"do_sample": False, "top_k": 5}),
    "gpt_neo": Family(
        {
            "hidden_size": 32,
            "num_layers": 2,
            "num_heads": 4,
            "attention_types": [[["global", "local"], 1]],
            "window_size": 16,
            "max_position_embeddings": POSITIONS,
        }
    ),
    "gpt_neox": Family(BERT),
    "gptj": Family(GPT2 | {"rotary_dim": 4}),
    "gpt_bigcode": Family(GPT2),
    "codegen": Family(GPT2 | {"rotary_dim": 4}),
    "opt": Family(
        {
            "hidden_size": 32,
            "ffn_dim": 48,
            "num_hidden_layers": 2,
            "num_attention_heads": 4,
            "word_embed_proj_dim": 16,
            "do_layer_norm_before": False,
            "max_position_embeddings": POSITIONS,
        }
    ),
    "bloom": Family({"hidden_size": 32, "n_layer": 2, "n_head": 4}),
    "falcon": Family(
        {"hidden_size": 32, "num_hidden_layers": 2, "num_attention_heads": 4, "max_position_embeddings": POSITIONS}
    ),
    "mpt": Family({"d_model": 32, "n_heads": 4, "n_layers": 2, "max_seq_len": POSITIONS}),
    "phi": Family(SIZES | {"num_key_value_heads": 4, "partial_rotary_factor": 0.5}),
    "phi3": Family(SIZES, generation={"eos_token_id": [2]}),
    "olmo2": Family(SIZES),
    "stablelm": Family(SIZES),
    "starcoder2": Family(SIZES),
    "cohere": Family(SIZES),
    "cohere2": Family(SIZES),
    "glm": Family(SIZES),
    "glm4": Family(SIZES),
    "granite": Family(SIZES | {"logits_scaling": 4.0, "embedding_multiplier": 6.0}),
    "smollm3": Family(SIZES),
    "nemotron": Family(SIZES),
    "persimmon": Family(SIZES),
    "helium": Family(SIZES),
    "biogpt": Family(BERT),
    "xglm": Family(
        {"d_model": 32, "ffn_dim": 48, "num_layers": 2, "attention_heads": 4, "max_position_embeddings": POSITIONS}
    ),
    "ctrl": Family(GPT2 | {"dff": 48}),
    "openai-gpt": Family(GPT2),
    "ernie4_5": Family(SIZES),
    "exaone4": Family(SIZES),
    "nanochat": Family(SIZES),
    "diffllama": Family(SIZES),
    "modernbert-decoder": Family(BERT),
    # Mixtures of experts
    "mixtral": Family(SIZES | EXPERTS),
    "qwen2_moe": Family(SIZES | FINE_EXPERTS | SHARED_EXPERT),
    "qwen3_moe": Family(SIZES | FINE_EXPERTS),
    "olmoe": Family(SIZES | {"num_experts": 4, "num_experts_per_tok": 2}),
    "deepseek_v3": Family(
        SIZES
        | {
            "head_dim": 4,
            "n_routed_experts": 4,
            "num_experts_per_tok": 2,
            "moe_intermediate_size": 16,
            "n_group": 2,
            "topk_group": 1,
            "first_k_dense_replace": 1,
            "kv_lora_rank": 8,
            "q_lora_rank": 8,
            "qk_rope_head_dim": 4,
            "qk_nope_head_dim": 4,
            "v_head_dim": 8,
            "n_shared_experts": 1,
            "num_key_value_heads": 4,
        }
    ),
    "gpt_oss": Family(SIZES | EXPERTS | {"sliding_window": 16}),
    "phimoe": Family(SIZES | EXPERTS | {"router_jitter_noise": 0.0, "input_jitter_noise": 0.0}),
    "granitemoe": Family(SIZES | EXPERTS),
    "jetmoe": Family(
        {
            "hidden_size": 32,
            "intermediate_size": 48,
            "num_hidden_layers": 2,
            "num_key_value_heads": 2,
            "kv_channels": 8,
            "num_local_experts": 4,
            "num_experts_per_tok": 2,
            "max_position_embeddings": POSITIONS,
        }
    ),
    "dbrx": Family(
        {
            "d_model": 32,
            "n_heads": 4,
            "n_layers": 2,
            "max_seq_len": POSITIONS,
            "attn_config": {"kv_n_heads": 2, "clip_qkv": 8.0, "rope_theta": 1e4},
            "ffn_config": {"ffn_hidden_size": 48, "moe_num_experts": 4, "moe_top_k": 2, "hidden_size": 32},
        }
    ),
    "hunyuan_v1_moe": Family(SIZES | {"num_experts": 4, "moe_topk": 2, "moe_intermediate_size": 16}),
    "gemma3": Family(
        {
            "text_config": SIZES | {"query_pre_attn_scalar": 8, "sliding_window": 16},
            "vision_config": {
                "hidden_size": 16,
                "intermediate_size": 16,
                "num_hidden_layers": 1,
                "num_attention_heads": 2,
                "image_size": 16,
                "patch_size": 8,
            },
            "mm_tokens_per_image": 1,
        }
    ),
    # State-space models and hybrids
    "mamba": Family(MAMBA),
    "mamba2": Family(MAMBA | {"num_heads": 8, "head_dim": 8, "n_groups": 2, "chunk_size": 16}),
    "falcon_mamba": Family(MAMBA),
    "rwkv": Family(
        {"hidden_size": 32, "attention_hidden_size": 32, "num_hidden_layers": 2, "context_length": POSITIONS}
    ),
    "recurrent_gemma": Family(SIZES | {"num_hidden_layers": 3, "lru_width": 32, "attention_window_size": 32}),
    "jamba": Family(
        SIZES
        | {
            "num_hidden_layers": 4,
            "num_experts": 4,
            "num_experts_per_tok": 2,
            "expert_layer_period": 2,
            "expert_layer_offset": 1,
            "attn_layer_period": 2,
            "attn_layer_offset": 1,
            "mamba_d_state": 8,
            "mamba_dt_rank": 4,
            "use_mamba_kernels": False,
        }
    ),
    "bamba": Family(
        SIZES
        | {
            "attn_layer_indices": [1],
        }
        | MAMBA2
    ),
    "zamba2": Family(
        SIZES
        | {
            "num_key_value_heads": 4,
            "layers_block_type": ["mamba", "hybrid"],
            "mamba_d_state": 8,
            "n_mamba_heads": 8,
            "mamba_headdim": 8,
            "mamba_ngroups": 2,
            "chunk_size": 16,
            "num_mem_blocks": 1,
            "attention_head_dim": 16,
            "kv_channels": 8,
            "attention_hidden_size": 64,
        }
    ),
    "falcon_h1": Family(
        SIZES
        | {
            "mamba_d_ssm": 64,
        }
        | MAMBA2
    ),
    "lfm2": Family(SIZES | {"layer_types": ["conv", "full_attention"], "block_multiple_of": 16}),
    "qwen3_next": Family(
        SIZES
        | FINE_EXPERTS
        | SHARED_EXPERT
        | {
            "layer_types": ["linear_attention", "full_attention"],
            "linear_key_head_dim": 8,
            "linear_value_head_dim": 8,
            "linear_num_key_heads": 2,
            "linear_num_value_heads": 4,
        }
    ),
    "nemotron_h": Family(
        SIZES
        | {
            "layers_block_type": ["mamba", "attention", "mlp"],
            "mamba_num_heads": 8,
            "mamba_head_dim": 8,
            "ssm_state_size": 8,
            "n_groups": 2,
            "chunk_size": 16,
        }
    ),
    "granitemoehybrid": Family(
        SIZES
        | EXPERTS
        | {
            "layer_types": ["mamba", "attention"],
            "shared_intermediate_size": 16,
        }
        | MAMBA2
    ),
    # Encoders
    "bert": Family(BERT, "encoder"),
    "roberta": Family(BERT | {"max_position_embeddings": POSITIONS + 2}, "encoder"),
    "xlm-roberta": Family(BERT | {"max_position_embeddings": POSITIONS + 2}, "encoder"),
    "distilbert": Family(
        {"dim": 32, "n_layers": 2, "n_heads": 4, "hidden_dim": 48, "max_position_embeddings": POSITIONS}, "encoder"
    ),
    "albert": Family(BERT | {"embedding_size": 16}, "encoder"),
    "electra": Family(BERT | {"embedding_size": 16}, "encoder"),
    "deberta": Family(BERT | {"relative_attention": True, "pos_att_type": ["p2c", "c2p"]}, "encoder"),
    "deberta-v2": Family(BERT | {"relative_attention": True, "pos_att_type": ["p2c", "c2p"]}, "encoder"),
    "modernbert": Family(BERT, "encoder"),
    "mpnet": Family(BERT, "encoder"),
    "convbert": Family(BERT | {"embedding_size": 32}, "encoder"),
    "fnet": Family(BERT, "encoder"),
    "longformer": Family(BERT | {"attention_window": 16, "max_position_embeddings": POSITIONS + 2}, "encoder"),
    "big_bird": Family(BERT, "encoder"),
    "rembert": Family(BERT, "encoder"),
    "xlnet": Family({"d_model": 32, "n_layer": 2, "n_head": 4, "d_inner": 48}, tokenizer="bert"),
    "xlm": Family({"emb_dim": 32, "n_layers": 2, "n_heads": 4, "max_position_embeddings": POSITIONS}, "encoder"),
    "flaubert": Family({"emb_dim": 32, "n_layers": 2, "n_heads": 4, "max_position_embeddings": POSITIONS}, "encoder"),
    "esm": Family(BERT, "encoder"),
    "eurobert": Family(SIZES, "encoder"),
    "mobilebert": Family(BERT | {"embedding_size": 16, "intra_bottleneck_size": 16, "true_hidden_size": 16}, "encoder"),
    "squeezebert": Family(BERT | {"embedding_size": 32}, "encoder"),
    "funnel": Family({"d_model": 32, "n_head": 4, "d_head": 8, "d_inner": 48, "block_sizes": [1, 1]}, "encoder"),
    "nomic_bert": Family(BERT, "encoder"),
    # Encoder-decoders
    "t5": Family({"d_model": 32, "d_kv": 8, "d_ff": 48, "num_layers": 2, "num_heads": 4}, "encoder-decoder"),
    "bart": Family(BART, "encoder-decoder"),
    "mbart": Family(BART, "encoder-decoder"),
    "pegasus": Family(BART, "encoder-decoder"),
}


def make_chat_tokenizer() -> PreTrainedTokenizerFast:
    """Bytes, begin, end and padding token, and ChatML with its tokens."""
    tokenizer = train_tokenizer("bpe", [LETTERS], 259)
    add_control_tokens(tokenizer, ["<|im_start|>", "<|im_end|>"])
    tokenizer.chat_template = read_built_in("chatml")
    return tokenizer


def make_encoder_tokenizer(start: str, end: str, pad: str, unknown: str, mask: str) -> PreTrainedTokenizerFast:
    """Characters, with `start` before a text and `end` after it, as BERT and RoBERTa have them."""
    special = [pad, unknown, start, end, mask]
    vocab = {token: index for index, token in enumerate([*special, *sorted(set(LETTERS.lower()))])}
    backend = Tokenizer(models.BPE(vocab=vocab, merges=[], unk_token=unknown, fuse_unk=False))
    backend.normalizer = normalizers.Lowercase()
    around = [(token, vocab[token]) for token in (start, end)]
    backend.post_processor = processors.TemplateProcessing(
        single=f"{start} $A {end}", pair=f"{start} $A {end} $B:1 {end}:1", special_tokens=around
    )
    names = {"pad_token": pad, "unk_token": unknown, "mask_token": mask, "cls_token": start, "sep_token": end}
    ends = {"bos_token": start, "eos_token": end} if start == "<s>" else {}
    inputs = ["input_ids", "attention_mask"] if ends else ["input_ids", "token_type_ids", "attention_mask"]
    return PreTrainedTokenizerFast(tokenizer_object=backend, model_input_names=inputs, **names, **ends)


TOKENIZERS = {
    "chatml": make_chat_tokenizer(),
    "bert": make_encoder_tokenizer("[CLS]", "[SEP]", "[PAD]", "[UNK]", "[MASK]"),
    "roberta": make_encoder_tokenizer("<s>", "</s>", "<pad>", "<unk>", "<mask>"),
}
# Encoders with begin and end tokens, as language models have them; the others have [CLS] and [SEP].
WITH_ENDS = ("roberta", "xlm-roberta", "mpnet", "longformer", "big_bird", "xlm", "flaubert", "esm")


def get_tokenizer(name: str) -> PreTrainedTokenizerFast:
    """The tokenizer that a folder of the family holds."""
    family = FAMILIES[name]
    with_ends = name in WITH_ENDS or family.kind == "encoder-decoder"
    usual = "chatml" if family.kind == "decoder" else "roberta" if with_ends else "bert"
    return TOKENIZERS[family.tokenizer or usual]


def save_family(folder: Path, name: str) -> Path:
    """Write a tiny random model of the family with its tokenizer: no weight is at its first value, none is large."""
    family = FAMILIES[name]
    tokenizer = get_tokenizer(name)
    ids = {f"{token}_token_id": getattr(tokenizer, f"{token}_token_id") for token in ("pad", "bos", "eos")}
    tied = {} if family.tied is None else {"tie_word_embeddings": family.tied}
    if family.kind == "encoder-decoder":
        ids["decoder_start_token_id"] = ids["pad_token_id"]
    config = AutoConfig.for_model(name, vocab_size=len(tokenizer), **ids, **tied, **family.fields)
    make_model(config, family.kind).save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    if family.generation:
        path = folder / "generation_config.json"
        path.write_text(json.dumps(json.loads(path.read_text()) | family.generation))
    return folder


def make_model(config: Any, kind: Kind) -> PreTrainedModel:
    with torch.random.fork_rng(), torch.no_grad():
        torch.manual_seed(0)
        model: PreTrainedModel = AUTO[kind].from_config(config)
        for weight in model.parameters():
            weight.add_(torch.randn_like(weight), alpha=0.05)
    return model
