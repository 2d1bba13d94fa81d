"""The base beside a tuned adapter is the base as it is stored, whatever the adapter has trained."""

from __future__ import annotations

import pytest
import torch
from biased_base import biased_base
from peft import LoraConfig
from transformers import AutoModelForCausalLM
from tuned_adapters import TIED, adapter_on, logits_of, save, saved_base, train

from hf_finetune.models.adapters.switching_off import is_base_when_off
from hf_finetune.models.base_and_tuned import run_base_and_tuned

SETTINGS = {
    "default": {},
    "all biases": {"bias": "all"},
    "biases of adapted layers": {"bias": "lora_only", "use_dora": True},
    "whole modules": {"modules_to_save": ["embed_tokens", "lm_head", "norm"]},
    "some tokens": {"trainable_token_indices": [5, 6]},
    "embedding": {"target_modules": ["embed_tokens", "q_proj"]},
    "pissa": {"init_lora_weights": "pissa"},
    "parameters": {"target_modules": ["q_proj"], "target_parameters": ["up_proj.weight"]},
}


def compare(base, folder, lora, **section):
    adapter = str(save(train(adapter_on(base, lora, **section), steps=5), folder))
    return run_base_and_tuned(adapter, None, lambda model, _: logits_of(model), lambda model, _: logits_of(model))


@pytest.mark.filterwarnings("ignore:`is_gradient_checkpointing` is deprecated:FutureWarning")
@pytest.mark.filterwarnings("ignore:Setting `save_embedding_layers`:UserWarning")
@pytest.mark.filterwarnings("error:Careful, disabling adapter layers:UserWarning")
@pytest.mark.parametrize("lora", SETTINGS.values(), ids=SETTINGS.keys())
def test_the_base_of_an_adapter_is_the_one_that_is_stored(tmp_path, lora):
    base = biased_base(tmp_path / "base")
    before, after = compare(base, tmp_path / "adapter", lora)
    expected = logits_of(AutoModelForCausalLM.from_pretrained(base))
    assert (before - expected).abs().max() <= 1e-5
    assert (after - expected).abs().max() > 1e-3


@pytest.mark.parametrize("lora", [{"modules_to_save": ["embed_tokens"]}, {"trainable_token_indices": [5, 6]}])
def test_so_it_is_where_embedding_and_head_share_their_weight(tmp_path, lora):
    base = saved_base(tmp_path / "base", **TIED)
    before, _ = compare(base, tmp_path / "adapter", lora)
    assert (before - logits_of(AutoModelForCausalLM.from_pretrained(base))).abs().max() <= 1e-5


def test_a_4_bit_base_with_tuned_biases_is_the_4_bit_base(tmp_path):
    base = biased_base(tmp_path / "base")
    before, _ = compare(base, tmp_path / "adapter", {"bias": "all"}, load_in_4bit=True)
    with torch.no_grad():
        untouched = adapter_on(base, {}, load_in_4bit=True)  # lora_B is zero
    assert (before - logits_of(untouched)).abs().max() <= 1e-5


@pytest.mark.parametrize(
    ("settings", "fresh", "tuned"),
    [
        ({}, True, True),
        ({"bias": "all"}, True, False),
        ({"init_lora_weights": "pissa_niter_4"}, False, False),  # of another tool: ours are converted
        ({"layer_replication": [[0, 1], [0, 1]]}, False, False),
        ({"init_lora_weights": "orthogonal", "r": 4}, True, True),
    ],
)
def test_what_takes_something_out_of_the_base_is_not_it_when_switched_off(settings, fresh, tuned):
    config = LoraConfig(target_modules=["q_proj"], **settings)
    assert is_base_when_off(config, trained=False) is fresh
    assert is_base_when_off(config, trained=True) is tuned
