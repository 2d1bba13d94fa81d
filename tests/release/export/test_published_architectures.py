"""A ScratchGPT as an architecture of transformers: the same logits, or a refusal that names every field in the way."""

from __future__ import annotations

import json
from dataclasses import dataclass
from typing import Any

import hypothesis
import pytest
import torch
from hypothesis import strategies
from models.scratch_models import tiny_config, tiny_model, token_ids
from transformers import AutoModelForCausalLM, PreTrainedModel

from hf_finetune.config.sections import ScratchSection
from hf_finetune.models.scratch_gpt import ScratchGPTForCausalLM
from hf_finetune.models.scratch_presets import PRESETS, build_scratch_config
from hf_finetune.release.export.llama.conversion import TRANSFORMERS_ALONE, convert_to_published, find_architecture

SPECIAL = {"pad_token_id": 0, "bos_token_id": 1, "eos_token_id": 2}

KINDS: dict[str, tuple[str, dict[str, Any]]] = {
    "llama": ("LlamaForCausalLM", {"gated_mlp": True, "qk_norm": False, "num_key_value_heads": 2}),
    "llama with biases, tied": (
        "LlamaForCausalLM",
        {"gated_mlp": True, "qk_norm": False, "use_bias": True, "tie_word_embeddings": True, "rope_theta": 500},
    ),
    "qwen3": ("Qwen3ForCausalLM", {"gated_mlp": True, "norm_eps": 1e-3}),
    "arcee": ("ArceeForCausalLM", {"qk_norm": False, "intermediate_size": 40}),
    "apertus": ("ApertusForCausalLM", {}),
    "gpt2": ("GPT2LMHeadModel", {"family": "gpt2"}),
    "gpt2 without biases, shared heads": (
        "GPT2LMHeadModel",
        {"family": "gpt2", "use_bias": False, "num_key_value_heads": 2, "hidden_act": "gelu"},
    ),
}


@dataclass(frozen=True)
class Pair:
    ours: ScratchGPTForCausalLM
    theirs: PreTrainedModel
    saved: dict[str, Any]
    name: str


@pytest.fixture(scope="module", params=KINDS)
def pair(request, tmp_path_factory) -> Pair:
    """A model, and the one it became: saved, and loaded by the Auto class alone."""
    name, fields = KINDS[request.param]
    ours, folder = tiny_model(attention="sdpa", max_position_embeddings=300, **fields), tmp_path_factory.mktemp("out")
    ours.generation_config.max_new_tokens = 7
    convert_to_published(ours).save_pretrained(folder)
    theirs = AutoModelForCausalLM.from_pretrained(folder, trust_remote_code=False)
    return Pair(ours, theirs, json.loads((folder / "config.json").read_text()), name)


def assert_same(one: torch.Tensor, other: torch.Tensor) -> None:
    torch.testing.assert_close(one, other, atol=1e-5, rtol=0)


@torch.no_grad()
def test_logits_and_loss_are_the_same_at_every_position(pair):
    ids = token_ids(2, 300)
    ours, theirs = pair.ours(ids, labels=ids), pair.theirs(ids, labels=ids)
    assert_same(ours.logits, theirs.logits)
    assert_same(ours.loss, theirs.loss)


@torch.no_grad()
def test_padding_and_a_cache_change_nothing(pair):
    ids, mask = token_ids(2, 9), torch.ones(2, 9, dtype=torch.long)
    mask[0, :4] = 0  # on the left, where positions have to be given to GPT-2, as `generate` does
    positions = (mask.cumsum(-1) - 1).clamp(min=0)
    ours = pair.ours(ids, attention_mask=mask).logits
    assert_same(ours[mask == 1], pair.theirs(ids, attention_mask=mask, position_ids=positions).logits[mask == 1])
    first = pair.theirs(ids[:, :6], attention_mask=mask[:, :6], position_ids=positions[:, :6], use_cache=True)
    rest = pair.theirs(
        ids[:, 6:], attention_mask=mask, position_ids=positions[:, 6:], past_key_values=first.past_key_values
    )
    assert_same(ours[:, 6:], rest.logits)


def test_padded_prompts_are_continued_alike(pair):
    ids, mask = token_ids(3, 6), torch.ones(3, 6, dtype=torch.long)
    ids[0, :3], mask[0, :3] = 0, 0
    ours, theirs = (model.generate(ids, attention_mask=mask, do_sample=False) for model in (pair.ours, pair.theirs))
    assert ours.shape[1] > 6
    assert ours.tolist() == theirs.tolist()


def test_what_is_saved_is_known_by_name_and_has_the_special_tokens(pair):
    assert pair.saved["architectures"] == [pair.name] == [type(pair.theirs).__name__]
    assert "auto_map" not in pair.saved
    assert type(pair.theirs).__module__.startswith("transformers.models.")
    assert [pair.saved[f"{name}_token_id"] for name in ("pad", "bos", "eos")] == [0, 1, 2]
    assert pair.theirs.generation_config.max_new_tokens == 7


def test_a_model_in_16_bits_stays_in_16_bits():
    model = tiny_model(gated_mlp=True).bfloat16()
    assert {weight.dtype for weight in convert_to_published(model).parameters()} == {torch.bfloat16}


def test_special_tokens_that_a_model_has_not_are_not_made_up():
    for fields in ({"family": "gpt2"}, {"gated_mlp": True, "qk_norm": False}):
        config = convert_to_published(tiny_model(**fields, bos_token_id=None, eos_token_id=None)).config
        assert (config.bos_token_id, config.eos_token_id) == (None, None)


def test_every_field_in_the_way_is_named_with_what_it_would_have_to_be():
    model = tiny_model(gated_mlp=True, qk_norm=False, hidden_act="gelu", ngram_order=3, ngram_vocab_size=9)
    with pytest.raises(ValueError, match="LlamaForCausalLM does not compute this ScratchGPT") as refused:
        convert_to_published(model)
    assert str(refused.value).endswith(": ngram_order=3 (it must be 1), hidden_act=gelu (it must be silu)")


def test_activations_that_other_programs_take_for_another_one_are_in_the_way():
    """transformers computes them, llama.cpp would read no name and compute SiLU."""
    assert find_architecture(tiny_config(gated_mlp=True, qk_norm=False, hidden_act="relu2")).obstacles
    assert find_architecture(tiny_config(family="gpt2", hidden_act="silu")).obstacles


def test_the_page_says_what_each_preset_is_exported_as(project_root):
    rows = (project_root / "docs" / "run-file.md").read_text(encoding="utf-8").splitlines()
    for preset in PRESETS:
        config = build_scratch_config(ScratchSection(preset=preset), vocab_size=300, **SPECIAL)
        (row,) = [row for row in rows if row.startswith(f"| `{preset}` | {config.num_hidden_layers}, ")]
        fit = find_architecture(config)
        assert not fit.obstacles
        assert f"`{fit.architecture}`" in row
        assert (fit.architecture in TRANSFORMERS_ALONE) == ("cannot serve" in row or "as `nano`" in row)


FIELDS = {
    "hidden_act": strategies.sampled_from(["silu", "relu2", "gelu", "gelu_new"]),
    "norm_type": strategies.sampled_from(["rmsnorm", "layernorm"]),
    "position_embedding_type": strategies.sampled_from(["rotary", "learned"]),
    **dict.fromkeys(("gated_mlp", "qk_norm", "use_bias", "tie_word_embeddings"), strategies.booleans()),
    "ngram_order": strategies.sampled_from([1, 1, 1, 2]),
    "num_key_value_heads": strategies.sampled_from([1, 2, 4]),
    "norm_eps": strategies.sampled_from([1e-6, 1e-2]),
    "rope_theta": strategies.sampled_from([100.0, 10_000]),
    "num_hidden_layers": strategies.sampled_from([1, 2]),
    "intermediate_size": strategies.sampled_from([24, 64]),
}


@hypothesis.settings(max_examples=60, deadline=None)
@hypothesis.given(strategies.sampled_from(["modern", "gpt2"]), strategies.fixed_dictionaries({}, optional=FIELDS))
def test_any_model_is_either_refused_with_what_helps_or_computes_the_same(family, fields):
    """Any configuration at all; of a refused one, with the fields as the refusal wants them."""
    fields = {"family": family, "hidden_size": 16, "ngram_vocab_size": 7, **fields}
    for obstacle in find_architecture(tiny_config(**fields)).obstacles:
        name, _, rest = obstacle.partition("=")
        wanted = rest.partition("(it must be ")[2].removesuffix(")").partition(" or ")[0]
        fields[name] = {"true": True, "false": False, "1": 1}.get(wanted, wanted)
    model = tiny_model(**fields)
    ids = token_ids(2, 11)
    with torch.no_grad():
        assert_same(model(ids).logits, convert_to_published(model)(ids).logits)
