from __future__ import annotations

import pytest
import torch
from transformers import AutoModelForCausalLM

from hf_finetune.config.sections import DataSection, ModelSection, ScratchSection
from hf_finetune.errors import ConfigError, ModelError
from hf_finetune.models.loading import (
    attention_for,
    block_size,
    load_causal_lm,
    load_config,
    load_for_generation,
    verify_saved,
)
from hf_finetune.models.tokenizers import train_tokenizer

TOKENIZER = train_tokenizer("char", ["abcdefgh "], None)
SCRATCH = ModelSection(
    scratch=ScratchSection(hidden_size=16, num_hidden_layers=1, num_attention_heads=2, max_position_embeddings=32)
)


@pytest.fixture
def saved(tmp_path):
    torch.manual_seed(0)
    model = load_causal_lm(SCRATCH, load_config(SCRATCH, TOKENIZER), 8, bf16=False)
    with torch.no_grad():
        model.lm_head.weight.normal_()
    model.save_pretrained(tmp_path / "model")
    TOKENIZER.save_pretrained(tmp_path / "model")
    return model, tmp_path / "model"


def test_a_scratch_model_has_a_row_for_each_token_and_its_special_ids():
    config = load_config(SCRATCH, TOKENIZER)
    assert config.vocab_size == len(TOKENIZER)
    assert (config.pad_token_id, config.eos_token_id) == (TOKENIZER.pad_token_id, TOKENIZER.eos_token_id)


def test_a_folder_loads_as_it_was_saved(saved):
    model, folder = saved
    section = ModelSection(path=str(folder))
    again = load_causal_lm(section, load_config(section, TOKENIZER), 8, bf16=False)
    assert all(torch.equal(a, b) for a, b in zip(model.parameters(), again.parameters(), strict=True))
    generator, tokenizer = load_for_generation(str(folder))
    assert not generator.training
    assert tokenizer.get_vocab() == TOKENIZER.get_vocab()


def test_what_lies_in_the_folder_is_compared_with_what_was_trained(saved):
    model, folder = saved
    verify_saved(model, folder)
    with torch.no_grad():
        model.lm_head.weight.add_(0.01)
    with pytest.raises(ModelError, match="logits differ"):
        verify_saved(model, folder)


def test_weights_that_are_not_finite_do_not_pass_as_equal(saved):
    model, folder = saved
    with torch.no_grad():
        model.lm_head.weight.fill_(float("nan"))
    model.save_pretrained(folder)
    with pytest.raises(ModelError, match="logits differ"):
        verify_saved(model, folder)


def test_a_tokenizer_of_another_model_is_refused(saved):
    _, folder = saved
    other = train_tokenizer("char", ["abcdefghijklmnopqrstuvwxyz"], None)
    with pytest.raises(ModelError, match="largest id"):
        load_config(ModelSection(path=str(folder)), other)


@pytest.mark.parametrize("path", ["nowhere/at/all", "some-org/some-model"])
def test_a_model_that_cannot_be_had_is_one_message(path):
    with pytest.raises(ModelError, match="cannot be loaded"):
        load_config(ModelSection(path=path), TOKENIZER)


def test_the_block_size_is_what_is_asked_for_or_what_the_model_takes():
    config = load_config(SCRATCH, TOKENIZER)
    assert block_size(DataSection(train="x"), config, TOKENIZER) == 32
    assert block_size(DataSection(train="x", block_size=8), config, TOKENIZER) == 8
    with pytest.raises(ConfigError, match="33 tokens are longer than the 32"):
        block_size(DataSection(train="x", block_size=33), config, TOKENIZER)


def test_short_blocks_of_bf16_on_a_cpu_use_eager_attention_unless_another_is_asked_for(monkeypatch):
    monkeypatch.setattr(torch.accelerator, "is_available", lambda: False)
    assert attention_for(SCRATCH, 256, bf16=True) == "eager"
    assert attention_for(SCRATCH, 257, bf16=True) == "sdpa"
    assert attention_for(SCRATCH, 8, bf16=False) == "sdpa"
    assert attention_for(SCRATCH.model_copy(update={"attn_implementation": "eager"}), 8, bf16=False) == "eager"
    assert attention_for(SCRATCH.model_copy(update={"attn_implementation": "sdpa"}), 8, bf16=True) == "sdpa"
    monkeypatch.setattr(torch.accelerator, "is_available", lambda: True)
    assert attention_for(SCRATCH, 8, bf16=True) == "sdpa"


def test_the_saved_model_is_any_auto_model(saved):
    model, folder = saved
    assert type(AutoModelForCausalLM.from_pretrained(folder)) is type(model)
