"""Settings of LoRA that name modules, layers, parameters or tokens: each is there, or refused with those that are."""

from __future__ import annotations

import pytest
import torch
from biased_base import biased_base
from transformers import MixtralConfig, MixtralForCausalLM
from tuned_adapters import adapter_on

from hf_finetune.errors import ConfigError

QV = {"target_modules": ["q_proj", "v_proj"]}

REFUSED = [
    ({**QV, "rank_pattern": {"q_porj": 16}}, "rank_pattern", "'q_porj' matches nothing", "did you mean q_proj?"),
    (
        {**QV, "rank_pattern": {"o_proj": 2}},
        "rank_pattern",
        "'o_proj' matches nothing",
        "it is on q_proj (2), v_proj (2)",
    ),
    ({**QV, "alpha_pattern": {"^v_proj": 64}}, "alpha_pattern", "'^v_proj' matches nothing", "did you mean v_proj?"),
    ({**QV, "rank_pattern": {"(": 2}}, "rank_pattern", "is no regular expression", ""),
    ({**QV, "layers_to_transform": [1, 9]}, "layers_to_transform", "no layer 9", "its layers are 0 to 1"),
    ({**QV, "layers_to_transform": -1}, "layers_to_transform", "no layer -1", "its layers are 0 to 1"),
    ({**QV, "layers_to_transform": []}, "layers_to_transform", "names no layer", "0 to 1"),
    (
        {**QV, "layers_to_transform": [0], "layers_pattern": ["layers", "h"]},
        "layers_pattern",
        "'h' names no list of layers",
        "it has layers",
    ),
    ({"exclude_modules": ["q_porj"]}, "exclude_modules", "'q_porj' matches no module", "did you mean q_proj?"),
    ({"exclude_modules": "nothing.*"}, "exclude_modules", "'nothing.*' matches no module", "q_proj (2)"),
    ({"exclude_modules": "("}, "exclude_modules", "is no regular expression", ""),
    ({**QV, "exclude_modules": ["up_proj"]}, "exclude_modules", "'up_proj' excludes nothing", "leave it out"),
    ({**QV, "exclude_modules": ".*up_proj"}, "exclude_modules", "'.*up_proj' excludes nothing", "leave it out"),
    ({"exclude_modules": ["lm_head"]}, "exclude_modules", "'lm_head' excludes nothing", "leave it out"),
    ({"target_modules": ".*porj"}, "target_modules", "'.*porj' matches no module", "q_proj (2)"),
    ({"target_parameters": ["experts.gate"]}, "target_parameters", "matches no weight matrix", "q_proj.weight (2)"),
    (
        {**QV, "target_parameters": ["up_porj.weight"]},
        "target_parameters",
        "matches no",
        "did you mean up_proj.weight?",
    ),
    ({"trainable_token_indices": [5, 700]}, "trainable_token_indices", "700 is no token", "its ids are 0 to 60"),
    ({"trainable_token_indices": [-1]}, "trainable_token_indices", "-1 is no token", "0 to 60"),
    (
        {"trainable_token_indices": {"lm_head": [1], "embd": [1]}},
        "trainable_token_indices",
        "'embd' matches no",
        "embed",
    ),
    ({"trainable_token_indices": {"norm": [1]}}, "trainable_token_indices", "'norm' matches no module", "embed_tokens"),
    ({"trainable_token_indices": {"embed_tokens": "x"}}, "trainable_token_indices", "names no token", "list of token"),
    ({"lora_bias": True}, "lora_bias", "o_proj, gate_proj, up_proj, down_proj: no bias", "q_proj, k_proj, v_proj"),
    ({"target_modules": ["o_proj"], "lora_bias": True}, "lora_bias", "o_proj: no bias", "leave it out"),
    (
        {"target_modules": ["o_proj"], "bias": "lora_only"},
        "bias",
        "no layer with an adapter has a bias",
        "leave it out",
    ),
    ({"r": 40, "init_lora_weights": "olora"}, "r", "40 is above 32, the rank of", "lower it to 32"),
]


@pytest.fixture(scope="module")
def base(tmp_path_factory):
    return biased_base(tmp_path_factory.mktemp("base"))


@pytest.mark.parametrize(("lora", "key", "what", "remedy"), REFUSED, ids=[str(lora) for lora, *_ in REFUSED])
def test_what_the_model_does_not_have_is_refused_with_what_it_has(base, lora, key, what, remedy):
    with pytest.raises(ConfigError) as refused:
        adapter_on(base, lora)
    [problem] = refused.value.problems
    assert problem.key == f"lora.{key}"
    assert what in problem.what
    assert remedy in problem.remedy


ACCEPTED = [
    ({**QV, "rank_pattern": {"q_proj": 2}, "alpha_pattern": {r"layers\.1\..*v_proj": 3}}, {"q_proj": 2, "v_proj": 8}),
    ({**QV, "layers_to_transform": [1], "layers_pattern": "layers"}, {"q_proj": 8, "v_proj": 8}),
    ({"exclude_modules": r".*mlp\..*"}, dict.fromkeys(["q_proj", "k_proj", "v_proj", "o_proj"], 8)),
    ({**QV, "lora_bias": True}, {"q_proj": 8, "v_proj": 8}),
    ({**QV, "bias": "lora_only", "trainable_token_indices": {"embed_tokens": [60, 0]}}, {"q_proj": 8, "v_proj": 8}),
]


@pytest.mark.parametrize(("lora", "ranks"), ACCEPTED, ids=[str(lora) for lora, _ in ACCEPTED])
def test_what_it_has_gets_what_was_asked_for(base, lora, ranks):
    model = adapter_on(base, lora)
    weights = {name: part.shape[0] for name, part in model.named_parameters() if "lora_A" in name}
    assert {name.split(".lora_A")[0].rpartition(".")[2]: rank for name, rank in weights.items()} == ranks
    if "layers_to_transform" in lora:
        assert all("layers.1." in name for name in weights)


def test_experts_are_named_as_the_parameters_that_they_are(tmp_path):
    torch.manual_seed(0)
    sizes = {"hidden_size": 16, "intermediate_size": 8, "num_local_experts": 2, "vocab_size": 61}
    heads = {"num_hidden_layers": 1, "num_attention_heads": 2, "num_key_value_heads": 1}
    MixtralForCausalLM(MixtralConfig(**sizes, **heads)).save_pretrained(tmp_path / "base")
    with pytest.raises(ConfigError) as refused:
        adapter_on(tmp_path / "base", {"target_parameters": ["expert.gate_up_proj"]})
    assert "did you mean experts.gate_up_proj?" in str(refused.value)
    assert "it has experts.gate_up_proj (1), experts.down_proj (1)" in str(refused.value)
    lora = {"target_parameters": ["experts.down_proj"], "rank_pattern": {"experts.down_proj": 4}}
    model = adapter_on(tmp_path / "base", lora)
    assert model.base_model.targeted_parameter_names == ["model.layers.0.mlp.experts.down_proj"]
    [lora_a] = [weight for name, weight in model.named_parameters() if "lora_A" in name]
    assert lora_a.shape[0] == 2 * 4  # experts, each of that rank


QUANTIZED = [
    ({"modules_to_save": ["q_proj"]}, "load_in_4bit", "modules_to_save", "q_proj is quantized"),
    ({"init_lora_weights": "orthogonal"}, "load_in_4bit", "init_lora_weights", "not drawn for quantized weights"),
    ({"use_dora": True}, "load_in_8bit", "use_dora", "does not keep on a CPU"),
]


@pytest.mark.parametrize(("lora", "bits", "key", "what"), QUANTIZED, ids=[str(lora) for lora, *_ in QUANTIZED])
def test_what_a_quantized_base_cannot_do_is_refused_before_training(base, lora, bits, key, what):
    with pytest.raises(ConfigError) as refused:
        adapter_on(base, lora, **{bits: True})
    [problem] = refused.value.problems
    assert problem.key == f"lora.{key}"
    assert what in problem.what


def test_tying_that_ties_nothing_is_refused(base):
    with pytest.raises(ConfigError, match=r"lora\.ensure_weight_tying: lora names neither"):
        adapter_on(base, {"ensure_weight_tying": True})
