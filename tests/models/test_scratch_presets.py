"""Presets of ScratchGPT and what a run file may change about them."""

from __future__ import annotations

from typing import get_args

import pytest
import torch

from hf_finetune.config.sections import ScratchSection
from hf_finetune.errors import ModelError
from hf_finetune.models.scratch_gpt import ScratchGPTConfig, ScratchGPTForCausalLM
from hf_finetune.models.scratch_presets import PRESETS, build_scratch_config
from hf_finetune.models.weights.parameters import count_parameters


def config_of(vocab_size: int = 4096, **section) -> ScratchGPTConfig:
    ids = {"pad_token_id": 0, "bos_token_id": 1, "eos_token_id": 2}
    return build_scratch_config(ScratchSection(**section), vocab_size=vocab_size, **ids)


def test_every_preset_of_the_run_file_exists_and_no_other():
    assert set(get_args(ScratchSection.model_fields["preset"].annotation)) == set(PRESETS)


def test_every_field_of_the_run_file_is_a_field_of_the_configuration():
    assert set(ScratchSection.model_fields) - {"preset"} <= set(ScratchGPTConfig.__dataclass_fields__)


@pytest.mark.parametrize(
    ("preset", "vocab_size", "smallest", "largest"),
    [
        ("nano", 1024, 0.8e6, 1.2e6),
        ("tiny", 4096, 8e6, 15e6),
        ("small", 8192, 30e6, 50e6),
        ("llama-like", 4096, 8e6, 15e6),
        ("gpt2", 50257, 124e6, 125e6),
    ],
)
def test_presets_have_the_size_that_they_promise(preset, vocab_size, smallest, largest):
    with torch.device("meta"):
        model = ScratchGPTForCausalLM(config_of(vocab_size, preset=preset))
    assert smallest <= count_parameters(model).total <= largest


def test_the_gpt2_preset_is_gpt2_and_the_others_are_modern():
    assert config_of(preset="gpt2").position_embedding_type == "learned"
    assert {config_of(preset=preset).family for preset in PRESETS if preset != "gpt2"} == {"modern"}


def test_vocabulary_and_special_tokens_are_the_tokenizers():
    config = config_of(vocab_size=77)
    assert (config.vocab_size, config.pad_token_id, config.bos_token_id, config.eos_token_id) == (77, 0, 1, 2)


@pytest.mark.parametrize(
    "override",
    [
        {"hidden_size": 64},
        {"num_hidden_layers": 1},
        {"num_attention_heads": 2},
        {"num_key_value_heads": 2},
        {"intermediate_size": 96},
        {"max_position_embeddings": 64},
        {"hidden_act": "gelu"},
        {"gated_mlp": True},
        {"qk_norm": False},
        {"rope_theta": 500.0},
        {"norm_eps": 1e-3},
        {"attention_dropout": 0.1},
        {"hidden_dropout": 0.2},
        {"initializer_range": 0.05},
        {"tie_word_embeddings": True},
        {"family": "gpt2"},
    ],
    ids=str,
)
def test_every_field_can_be_overridden(override):
    config, plain = config_of(**override), config_of()
    for field, value in override.items():
        assert getattr(config, field) == value != getattr(plain, field)


def test_sizes_left_open_follow_the_overridden_ones():
    assert config_of(hidden_size=96).intermediate_size == 4 * 96
    assert config_of(num_attention_heads=8).num_key_value_heads == 8
    assert config_of(family="gpt2").tie_word_embeddings is True


def test_fields_that_do_not_fit_are_all_named_with_their_keys_and_numbers():
    with pytest.raises(ModelError) as refused:
        config_of(hidden_size=130, num_key_value_heads=3)
    keys = [problem.key for problem in refused.value.problems]
    assert keys == ["model.scratch.hidden_size", "model.scratch.num_key_value_heads"]
    assert all(part in str(refused.value) for part in ("130", "num_attention_heads 4", "num_key_value_heads 3", "nano"))


def test_an_odd_head_is_refused_for_rotary_positions_only():
    with pytest.raises(ModelError, match="each head has 9"):
        config_of(hidden_size=36)
    assert config_of(hidden_size=36, family="gpt2").hidden_size == 36


def test_a_field_of_the_wrong_type_is_refused_with_what_the_configuration_says():
    section = ScratchSection.model_construct(preset="nano", family="llama")
    with pytest.raises(ModelError, match=r"model.scratch: .*vocab_size.*; change it, or another field of"):
        build_scratch_config(section, vocab_size="many", pad_token_id=None, bos_token_id=None, eos_token_id=None)
