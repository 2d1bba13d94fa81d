"""Counting parameters by component."""

from __future__ import annotations

import pytest
import torch
from models.scratch_models import VARIANTS, tiny_model
from transformers import (
    BertConfig,
    BertForSequenceClassification,
    GPT2Config,
    GPT2LMHeadModel,
    GPTNeoXConfig,
    GPTNeoXForCausalLM,
    LlamaConfig,
    LlamaForCausalLM,
    MixtralConfig,
    MixtralForCausalLM,
    OPTConfig,
    OPTForCausalLM,
    Qwen3Config,
    Qwen3ForCausalLM,
)

from hf_finetune.models.scratch_gpt import ScratchGPTForSequenceClassification
from hf_finetune.models.weights.parameters import count_parameters

SIZES = {"vocab_size": 40, "hidden_size": 16, "num_hidden_layers": 2, "num_attention_heads": 2, "intermediate_size": 24}


def components(model) -> dict[str, int]:
    return {k: v for k, v in count_parameters(model).as_dict().items() if k not in ("total", "trainable")}


def test_a_modern_scratch_gpt_is_counted_exactly():
    hidden, layers, vocab, wide = 32, 2, 61, 128
    assert components(tiny_model()) == {
        "embeddings": vocab * hidden,
        "attention": layers * 4 * hidden**2,
        "feed_forward": layers * 2 * hidden * wide,
        "norms": (2 * layers + 1) * hidden,
        "head": vocab * hidden,
        "other": 0,
    }


def test_a_tied_head_is_counted_once_and_biases_go_with_their_layers():
    hidden, layers, vocab, wide, positions = 32, 2, 61, 128, 32
    assert components(tiny_model(family="gpt2")) == {
        "embeddings": (vocab + positions) * hidden,
        "attention": layers * 4 * (hidden**2 + hidden),
        "feed_forward": layers * (2 * hidden * wide + wide + hidden),
        "norms": (2 * layers + 1) * 2 * hidden,
        "head": 0,
        "other": 0,
    }


@pytest.mark.parametrize("fields", VARIANTS.values(), ids=VARIANTS)
def test_components_add_up_to_what_transformers_counts(fields):
    model = tiny_model(**fields)
    counts = count_parameters(model)
    assert counts.total == sum(components(model).values()) == model.num_parameters()


def test_a_classifiers_score_is_its_head():
    assert components(tiny_model(ScratchGPTForSequenceClassification, num_labels=3))["head"] == 3 * 32 + 3


def test_only_parameters_that_learn_are_trainable():
    model = tiny_model()
    model.model.requires_grad_(False)
    assert count_parameters(model).trainable == model.lm_head.weight.numel()


@pytest.mark.parametrize(
    "model",
    [
        GPT2LMHeadModel(GPT2Config(vocab_size=40, n_embd=16, n_layer=2, n_head=2, n_positions=8)),
        LlamaForCausalLM(LlamaConfig(**SIZES)),
        Qwen3ForCausalLM(Qwen3Config(**SIZES, head_dim=8)),
        GPTNeoXForCausalLM(GPTNeoXConfig(**SIZES)),
        OPTForCausalLM(
            OPTConfig(vocab_size=40, hidden_size=16, num_hidden_layers=2, num_attention_heads=2, ffn_dim=24,
                      word_embed_proj_dim=16)
        ),
        BertForSequenceClassification(BertConfig(**SIZES, max_position_embeddings=8)),
        MixtralForCausalLM(MixtralConfig(**SIZES, num_key_value_heads=2, num_local_experts=2)),
    ],
    ids=lambda model: type(model).__name__,
)  # fmt: skip
def test_models_of_the_library_are_counted_by_the_same_names(model):
    counts = count_parameters(model)
    assert counts.total == model.num_parameters()
    pooler = sum(parameter.numel() for name, parameter in model.named_parameters() if "pooler" in name)
    assert counts.other == pooler
    assert min(counts.embeddings, counts.attention, counts.feed_forward, counts.norms) > 0


@pytest.mark.filterwarnings("ignore:.is_gradient_checkpointing. is deprecated:FutureWarning")
def test_adapters_count_where_they_are_attached_and_alone_are_trainable():
    from peft import LoraConfig, get_peft_model

    plain = components(tiny_model())
    model = get_peft_model(tiny_model(), LoraConfig(r=4, target_modules=["q_proj"], task_type="CAUSAL_LM"))
    counts = count_parameters(model)
    assert counts.trainable == 2 * 2 * 32 * 4
    assert counts.attention == plain["attention"] + counts.trainable
    assert counts.total == sum(plain.values()) + counts.trainable


def test_a_four_bit_weight_counts_the_numbers_that_it_stands_for(tmp_path):
    pytest.importorskip("bitsandbytes")
    from transformers import AutoModelForCausalLM, BitsAndBytesConfig

    model = tiny_model()
    model.save_pretrained(tmp_path)
    quantization = BitsAndBytesConfig(load_in_4bit=True)
    loaded = AutoModelForCausalLM.from_pretrained(tmp_path, quantization_config=quantization, dtype=torch.float32)
    assert components(loaded) == components(model)
