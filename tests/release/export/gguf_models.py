"""Tiny models of the families that GGUF files are written of, and the log-probabilities that they give."""

from __future__ import annotations

from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
import torch
from models.ready_made.gguf_files import CHATML, digits_apart_tokenizer
from transformers import (
    AutoModelForCausalLM,
    Gemma2Config,
    Gemma3TextConfig,
    GemmaConfig,
    GPT2Config,
    LlamaConfig,
    MistralConfig,
    PreTrainedModel,
    PreTrainedTokenizerFast,
    Qwen2Config,
    Qwen3Config,
)

from hf_finetune.release.export.gguf.writing import About, write_model

ROTATIONS = {
    "llama3": {"low_freq_factor": 1.0, "high_freq_factor": 4.0, "original_max_position_embeddings": 32, "factor": 8.0},
    "linear": {"factor": 4.0},
    "yarn": {"factor": 4.0, "original_max_position_embeddings": 32},
}
GEMMA = {"head_dim": 16, "query_pre_attn_scalar": 16, "sliding_window": 8}

KINDS: dict[str, tuple[type, dict[str, Any]]] = {
    "llama": (LlamaConfig, {}),
    "llama with biases, tied, of wide heads": (
        LlamaConfig,
        {"attention_bias": True, "mlp_bias": True, "tie_word_embeddings": True, "head_dim": 32},
    ),
    **{
        f"llama rotated as {kind}": (LlamaConfig, {"rope_parameters": {"rope_type": kind, "rope_theta": 1e4, **more}})
        for kind, more in ROTATIONS.items()
    },
    "mistral": (MistralConfig, {"sliding_window": None}),
    "qwen2": (Qwen2Config, {}),
    "qwen3": (Qwen3Config, {"head_dim": 32}),
    "gemma": (GemmaConfig, {"head_dim": 16}),
    "gemma2": (Gemma2Config, GEMMA),
    "gemma3": (Gemma3TextConfig, {**GEMMA, "num_hidden_layers": 7}),
    "gpt2": (GPT2Config, {}),
}
VOCABULARY = 293
"""Two more than the tokenizer has, as published models pad theirs."""


@cache
def chat_tokenizer() -> PreTrainedTokenizerFast:
    tokenizer = digits_apart_tokenizer()
    tokenizer.chat_template = CHATML
    return tokenizer


def tiny(kind: str = "llama", **more: Any) -> PreTrainedModel:
    torch.manual_seed(0)
    cls, fields = KINDS[kind]
    sizes: dict[str, Any] = {"n_embd": 64, "n_head": 4, "n_layer": 2, "n_positions": 128}
    if cls is not GPT2Config:
        sizes = {
            "hidden_size": 64, "intermediate_size": 96, "num_hidden_layers": 3, "num_attention_heads": 4,
            "num_key_value_heads": 2, "max_position_embeddings": 128, "pad_token_id": 2,
        }  # fmt: skip
    ends = {"bos_token_id": 1, "eos_token_id": 2}
    model = AutoModelForCausalLM.from_config(
        cls(**{"vocab_size": VOCABULARY, **sizes, **ends, **fields, **more})
    ).eval()
    with torch.no_grad():
        for weight in model.parameters():
            if weight.ndim == 1:  # norms of 1 and biases of 0 would fit wherever they stand
                weight.add_(torch.randn_like(weight) * 0.1)
    return model


def write(folder: Path, model: PreTrainedModel, quant: str = "f32") -> Path:
    path = folder / f"{quant}.gguf"
    write_model(path, model, chat_tokenizer(), quant, About("tiny", template=CHATML))
    return path


def ids_of(count: int = 30) -> list[int]:
    return [1, *(number * 37 % VOCABULARY for number in range(count))]


@torch.no_grad()
def log_probabilities(model: torch.nn.Module, ids: list[int]) -> np.ndarray:
    return torch.log_softmax(model(torch.tensor([ids])).logits[0, -1].float(), -1).numpy()
