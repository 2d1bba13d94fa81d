"""Tiny classifiers with known answers, saved in folders, for the tests of prediction."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch
import transformers
from tokenizers import Tokenizer, models, pre_tokenizers, processors
from transformers import BertConfig, BertForSequenceClassification, PreTrainedTokenizerFast

from hf_finetune.models.decision import Decision, write_decision

transformers.utils.logging.disable_progress_bar()

WORDS = ["good", "fine", "dull", "bad", "very", "not", "a", "the", "day", "film", "<", "sep", ">"]
POSITIONS = 16


def encoder_tokenizer() -> PreTrainedTokenizerFast:
    """Words, `<cls> text <sep>` and `<cls> text <sep> text <sep>`."""
    special = ["<pad>", "<cls>", "<sep>", "<unk>"]
    vocab = {word: number for number, word in enumerate([*special, *WORDS])}
    tokenizer = Tokenizer(models.WordLevel(vocab, unk_token="<unk>"))
    tokenizer.pre_tokenizer = pre_tokenizers.Whitespace()
    tokenizer.post_processor = processors.TemplateProcessing(
        single="<cls> $A <sep>", pair="<cls> $A <sep> $B:1 <sep>:1", special_tokens=[("<cls>", 1), ("<sep>", 2)]
    )
    return PreTrainedTokenizerFast(
        tokenizer_object=tokenizer,
        pad_token="<pad>",
        cls_token="<cls>",
        sep_token="<sep>",
        unk_token="<unk>",
        model_max_length=POSITIONS,
        model_input_names=["input_ids", "token_type_ids", "attention_mask"],
    )


def encoder(labels: tuple[str, ...], problem_type: str | None, **fields: Any) -> BertForSequenceClassification:
    """Random weights, the same each time; over random texts each logit has mean 0 and deviation 2."""
    tokenizer = encoder_tokenizer()
    config = BertConfig(
        vocab_size=len(tokenizer), hidden_size=16, num_hidden_layers=2, num_attention_heads=2, intermediate_size=16,
        max_position_embeddings=POSITIONS, pad_token_id=0, problem_type=problem_type,
        id2label=dict(enumerate(labels)), label2id={label: number for number, label in enumerate(labels)}, **fields,
    )  # fmt: skip
    with torch.random.fork_rng(), torch.no_grad():
        torch.manual_seed(0)
        model = BertForSequenceClassification(config)
        for parameter in model.parameters():
            parameter.add_(torch.randn_like(parameter), alpha=0.5)
        logits = model.eval()(torch.randint(4, len(tokenizer), (200, 8))).logits
        scale = 2 / logits.std(dim=0)
        model.classifier.weight.mul_(scale[:, None])
        model.classifier.bias.sub_(logits.mean(dim=0)).mul_(scale)
    return model


def saved_classifier(
    folder: Path,
    labels: tuple[str, ...] = ("bad", "good"),
    problem_type: str | None = "single_label_classification",
    decision: Decision | None = None,
) -> str:
    encoder(labels, problem_type).save_pretrained(folder)
    encoder_tokenizer().save_pretrained(folder)
    if decision is not None:
        write_decision(decision, folder)
    return str(folder)
