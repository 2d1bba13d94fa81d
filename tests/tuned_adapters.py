"""Adapters on tiny saved bases, trained a few steps, for the tests of models, training and release."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch
import transformers
from models.scratch_models import tiny_model, token_ids
from peft import PeftModel
from transformers import AutoConfig

from hf_finetune.config.sections import ModelSection
from hf_finetune.models.adapters.attach import attach_adapter, save_adapter
from hf_finetune.models.loading import load_causal_lm
from hf_finetune.models.tokenizer_training import train_tokenizer

transformers.utils.logging.disable_progress_bar()

# 61 tokens, as many as the tiny models have.
TOKENIZER = train_tokenizer("char", ["abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ .,?\n"], None)
TIED = {"tie_word_embeddings": True}


def saved_base(folder: Path, **fields: Any) -> Path:
    """A base with its tokenizer; its logits are about 1, so that 1e-5 is an error of float32 and not its rounding."""
    model = tiny_model(max_position_embeddings=64, **fields)
    with torch.no_grad():
        model.get_output_embeddings().weight.mul_(0.1)
    model.save_pretrained(folder)
    TOKENIZER.save_pretrained(folder)
    return folder


def adapter_on(base: Path, lora: dict[str, Any] | None = None, **section: Any) -> PeftModel:
    settings = ModelSection(path=str(base), **section)
    model = load_causal_lm(settings, AutoConfig.from_pretrained(base), 16, bf16=False)
    torch.manual_seed(1)
    return attach_adapter(model, lora)


def train(model: PeftModel, steps: int = 3) -> PeftModel:
    optimizer = torch.optim.AdamW([p for p in model.parameters() if p.requires_grad], lr=0.01)
    model.train()
    for step in range(steps):
        ids = token_ids(2, 16, seed=step)
        model(input_ids=ids, labels=ids).loss.backward()
        optimizer.step()
        optimizer.zero_grad()
    return model.eval()


def save(model: PeftModel, folder: Path) -> Path:
    model.save_pretrained(folder)
    save_adapter(model, folder)
    TOKENIZER.save_pretrained(folder)
    return folder


def logits_of(model: torch.nn.Module) -> torch.Tensor:
    with torch.no_grad():
        return model.eval()(input_ids=token_ids(4, 16, seed=9)).logits.float()
