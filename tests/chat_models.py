"""Tiny models that talk, for the tests of evaluation and of the command."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
import transformers
from transformers import LlamaConfig, LlamaForCausalLM, PreTrainedTokenizerFast

from hf_finetune.chat.template import load_chat_template
from hf_finetune.config.sections import DataSection
from hf_finetune.models.tokenizer_training import train_tokenizer

transformers.utils.logging.disable_progress_bar()

LETTERS = "abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ .,:?\n"


def talking_tokenizer() -> PreTrainedTokenizerFast:
    """Characters, and the template that a base without one gets: `User:`, text, end token, `Assistant:`."""
    tokenizer = train_tokenizer("char", [LETTERS])
    load_chat_template(DataSection(train="x"), tokenizer)
    return tokenizer


def parrot(
    tokenizer: PreTrainedTokenizerFast, follows: Mapping[str, str], positions: int = 512, **fields: Any
) -> LlamaForCausalLM:
    """A model that always goes on from one token to the same next one: `{"a": "b"}`; from any other, it ends.

    Its logits are 10 for what follows, 8 for "z", 0 for all else.
    """
    size = 2 * len(tokenizer)
    config = LlamaConfig(
        vocab_size=len(tokenizer), hidden_size=size, intermediate_size=4, num_hidden_layers=1, num_attention_heads=1,
        max_position_embeddings=positions, tie_word_embeddings=False, bos_token_id=tokenizer.bos_token_id,
        eos_token_id=tokenizer.eos_token_id, pad_token_id=tokenizer.pad_token_id, **fields,
    )  # fmt: skip
    model = LlamaForCausalLM(config)
    ids = tokenizer.get_vocab()
    with torch.no_grad():
        for weight in model.parameters():
            weight.zero_()
        model.model.norm.weight.fill_(size**-0.5)  # of a vector with a single 1
        model.model.embed_tokens.weight[:, : len(tokenizer)] = torch.eye(len(tokenizer))
        for token, index in ids.items():
            model.lm_head.weight[ids["z"], index] = 8.0
            model.lm_head.weight[ids[follows.get(token, tokenizer.eos_token)], index] = 10.0
    return model.eval()


def saved_parrot(folder: Path, follows: Mapping[str, str], *, chat: bool = True, **fields: Any) -> str:
    tokenizer = talking_tokenizer()
    parrot(tokenizer, follows, **fields).save_pretrained(folder)
    if not chat:
        tokenizer.chat_template = None
    tokenizer.save_pretrained(folder)
    return str(folder)
