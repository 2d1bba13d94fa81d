"""Tiny ScratchGPT models for the tests of this folder."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import torch

from hf_finetune.models.scratch_gpt import (
    ScratchGPTConfig,
    ScratchGPTForCausalLM,
    ScratchGPTForSequenceClassification,
    ScratchGPTModel,
)
from hf_finetune.models.tokenizer_training import train_tokenizer

VARIANTS: dict[str, dict[str, Any]] = {
    "modern": {},
    "modern-grouped-gated-tied": {"num_key_value_heads": 2, "gated_mlp": True, "tie_word_embeddings": True},
    "gpt2": {"family": "gpt2"},
    "ngrams": {"ngram_order": 3, "ngram_vocab_size": 101},
}


def tiny_config(**fields: Any) -> ScratchGPTConfig:
    sizes = {"vocab_size": 61, "hidden_size": 32, "num_hidden_layers": 2, "num_attention_heads": 4}
    special = {"pad_token_id": 0, "bos_token_id": 1, "eos_token_id": 2}
    return ScratchGPTConfig(**{**sizes, "max_position_embeddings": 32, **special, **fields})


def tiny_model(
    model_class: type = ScratchGPTForCausalLM, attention: str = "eager", **fields: Any
) -> ScratchGPTForCausalLM | ScratchGPTModel | ScratchGPTForSequenceClassification:
    """Always the same, in eval mode, no weight at its first value: a fresh modern model's branches are all zero."""
    with torch.random.fork_rng(), torch.no_grad():
        torch.manual_seed(0)
        model = model_class._from_config(tiny_config(**fields), attn_implementation=attention)
        for parameter in model.parameters():
            parameter.add_(torch.randn_like(parameter), alpha=0.3)
    return model.eval()


def save_chat_base(folder: Path, data: Path, **fields: Any) -> Path:
    """Save a tiny GPT of 256 positions whose tokenizer has been trained on these rows and has no chat template."""
    rows = [json.loads(line) for line in data.read_text(encoding="utf-8").splitlines()]
    tokenizer = train_tokenizer("bpe", [text for row in rows for text in row.values()], 300)
    tokenizer.save_pretrained(folder)
    special = {name: getattr(tokenizer, name) for name in ("pad_token_id", "bos_token_id", "eos_token_id")}
    shape = {"vocab_size": len(tokenizer), "max_position_embeddings": 256, **special, **fields}
    tiny_model(**shape).save_pretrained(folder)
    return folder


def token_ids(*shape: int, vocab_size: int = 61, seed: int = 0) -> torch.Tensor:
    """Random ordinary tokens: never pad, bos or eos."""
    return torch.randint(3, vocab_size, shape, generator=torch.Generator().manual_seed(seed))
