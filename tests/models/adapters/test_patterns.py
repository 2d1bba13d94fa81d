"""Patterns that peft never sees reach the modules that they reach where peft matches them itself."""

from __future__ import annotations

import json
import warnings

import pytest
import torch
from models.scratch_models import tiny_model
from peft import LoraConfig, get_peft_model
from tuned_adapters import adapter_on, logits_of, save, saved_base, train

from hf_finetune.models.adapters.loading import load_adapter
from hf_finetune.models.adapters.patterns import name_what_matches

PATTERNS = [
    {"target_modules": r".*\.[qv]_proj"},
    {"target_modules": r".*proj", "exclude_modules": r".*\.1\..*"},
    {"target_modules": r".*\.layers\.0\..*_proj", "rank_pattern": {r"self_attn\.[qk]_proj": 2, r".*_proj": 3}},
    {
        "target_modules": ["q_proj", "v_proj"],
        "rank_pattern": {r"layers\.1\..*": 5},
        "alpha_pattern": {"^model.*q.*": 7},
    },
    {"target_modules": ["q_proj"], "rank_pattern": {"q_proj": 2}, "exclude_modules": "nothing.*"},
]


def ranks_of(model: torch.nn.Module) -> dict[str, tuple[int, float]]:
    return {
        name: (part.r["default"], part.scaling["default"])
        for name, part in model.named_modules()
        if hasattr(part, "lora_A")
    }


@pytest.mark.parametrize("settings", PATTERNS, ids=str)
def test_modules_and_ranks_are_those_of_plain_peft(settings):
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        plain = ranks_of(get_peft_model(tiny_model(), LoraConfig(**settings)))
        model, config = tiny_model(), LoraConfig(**settings)
        with name_what_matches(model, config):
            adapted = get_peft_model(model, config)
    assert ranks_of(adapted) == plain
    assert plain
    kept = adapted.peft_config["default"]
    for key, value in settings.items():
        assert getattr(kept, key) == (set(value) if isinstance(value, list) else value)


def test_an_adapter_with_patterns_is_saved_with_them_and_loads_as_it_was_trained(tmp_path):
    base = saved_base(tmp_path / "base")
    lora = {"target_modules": r".*\.[qv]_proj", "rank_pattern": {r"layers\.1\..*": 5}, "r": 2}
    model = train(adapter_on(base, lora))
    folder = save(model, tmp_path / "adapter")
    stored = json.loads((folder / "adapter_config.json").read_text())
    assert (stored["target_modules"], stored["rank_pattern"]) == (lora["target_modules"], lora["rank_pattern"])
    loaded, _ = load_adapter(str(folder))
    assert torch.allclose(logits_of(loaded), logits_of(model), atol=1e-5)
    assert loaded.peft_config["default"].target_modules == lora["target_modules"]
