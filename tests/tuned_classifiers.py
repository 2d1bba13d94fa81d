"""Tiny saved bases of several architectures, and classifiers on them, for the tests of models, training and release."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch
from models.scratch_models import token_ids
from peft import PeftModel
from transformers import (
    AutoConfig,
    AutoModelForCausalLM,
    AutoModelForMaskedLM,
    BertConfig,
    DistilBertConfig,
    GPT2Config,
    LlamaConfig,
    PreTrainedModel,
    RobertaConfig,
)
from tuned_adapters import TOKENIZER, saved_base

from hf_finetune.config.sections import ModelSection
from hf_finetune.label_set import Labels
from hf_finetune.models.adapters.attach import attach_adapter
from hf_finetune.models.classifiers import load_classifier

SPAM = Labels(("ham", "spam"), "single", ("ham", "spam"))
TOPICS = Labels(("art", "law", "sport"), "single", ("art", "law", "sport"))
TAGS = Labels(("art", "law", "sport"), "multi", ("art", "law", "sport"))
NUMBER = Labels(("value",), "number")

SIZES = {"hidden_size": 32, "num_hidden_layers": 3, "num_attention_heads": 4, "intermediate_size": 48}
CONFIGS: dict[str, Any] = {
    "bert": lambda **fields: BertConfig(**SIZES, **fields, max_position_embeddings=64),
    "distilbert": lambda **fields: DistilBertConfig(
        **fields, dim=32, n_layers=3, n_heads=4, hidden_dim=48, max_position_embeddings=64
    ),
    "roberta": lambda **fields: RobertaConfig(**SIZES, **fields, max_position_embeddings=66),
    "gpt2": lambda **fields: GPT2Config(**fields, n_embd=32, n_layer=3, n_head=4, n_positions=64),
    "llama": lambda **fields: LlamaConfig(**SIZES, **fields, max_position_embeddings=64),
}
DECODERS = ("gpt2", "llama", "scratch_gpt")
ARCHITECTURES = (*CONFIGS, "scratch_gpt")

# The modules that a classifier on a saved backbone learns from the beginning.
NEW = {
    "bert": "bert.pooler.dense, classifier",
    "distilbert": "classifier, pre_classifier",
    "roberta": "classifier.dense, classifier.out_proj",
    "gpt2": "score",
    "llama": "score",
    "scratch_gpt": "score",
}


def saved_backbone(folder: Path, architecture: str, **fields: Any) -> Path:
    """A language model with its tokenizer, as the Hub has them: without pooler, with the head of its training."""
    if architecture == "scratch_gpt":
        return saved_base(folder, num_hidden_layers=3, **fields)
    special = {"pad_token_id": 0, "bos_token_id": 1, "eos_token_id": 2}
    config = CONFIGS[architecture](vocab_size=len(TOKENIZER), **special | fields)
    auto_class: Any = AutoModelForCausalLM if architecture in DECODERS else AutoModelForMaskedLM
    with torch.random.fork_rng():
        torch.manual_seed(0)
        model = auto_class.from_config(config)
        with torch.no_grad():
            for parameter in model.parameters():
                parameter.add_(torch.randn_like(parameter), alpha=0.1)
    model.save_pretrained(folder)
    TOKENIZER.save_pretrained(folder)
    return folder


def classifier_on(base: Path, labels: Labels = SPAM, pad_token_id: int = 0, **section: Any) -> PreTrainedModel:
    settings = ModelSection(path=str(base), **section)
    torch.manual_seed(1)
    config = AutoConfig.from_pretrained(base)
    return load_classifier(settings, config, labels, 16, bf16=False, pad_token_id=pad_token_id).eval()


def adapted_classifier(
    base: Path, lora: dict[str, Any] | None = None, labels: Labels = SPAM, **section: Any
) -> PeftModel:
    return attach_adapter(classifier_on(base, labels, **section), lora)


def targets(labels: Labels, rows: int) -> torch.Tensor:
    drawn = torch.randint(len(labels.names) if labels.kind == "single" else 2, (rows, len(labels.names)))
    return drawn[:, 0] if labels.kind == "single" else drawn.float()


def train_classifier(model: Any, labels: Labels = SPAM, steps: int = 3) -> Any:
    optimizer = torch.optim.AdamW([p for p in model.parameters() if p.requires_grad], lr=0.01)
    model.train()
    torch.manual_seed(2)
    for step in range(steps):
        model(input_ids=token_ids(4, 16, seed=step), labels=targets(labels, 4)).loss.backward()
        optimizer.step()
        optimizer.zero_grad()
    return model.eval()
