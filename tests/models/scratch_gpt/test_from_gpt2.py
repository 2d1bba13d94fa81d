"""GPT-2 of Hugging Face -> ScratchGPT with equal logits."""

from __future__ import annotations

import pytest
import torch
from transformers import GPT2Config, GPT2LMHeadModel

from hf_finetune.models.scratch_gpt import ScratchGPTForCausalLM
from hf_finetune.models.weights.parameters import count_parameters

# Width, heads and true number of layers of the published models.
PUBLISHED = {"124M": (768, 12, 12), "355M": (1024, 16, 24), "774M": (1280, 20, 36), "1.5B": (1600, 25, 48)}


def random_gpt2(**fields) -> GPT2LMHeadModel:
    """Every weight random, biases and norms too: a fresh GPT-2 has zeros and ones where a mistake would not show."""
    torch.manual_seed(0)
    sizes = {"vocab_size": 50, "n_embd": 32, "n_layer": 2, "n_head": 4, "n_positions": 24}
    model = GPT2LMHeadModel(GPT2Config(**{**sizes, "bos_token_id": 1, "eos_token_id": 1, **fields}))
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.add_(torch.randn_like(parameter), alpha=0.02)
    return model.eval()


def assert_equal_logits(gpt2: GPT2LMHeadModel, ours: ScratchGPTForCausalLM, seq: int = 20) -> None:
    ids = torch.randint(gpt2.config.vocab_size, (2, seq), generator=torch.Generator().manual_seed(1))
    with torch.no_grad():
        torch.testing.assert_close(ours.eval()(ids).logits, gpt2(ids).logits, atol=1e-5, rtol=1e-5)


@pytest.mark.parametrize("size", PUBLISHED)
def test_logits_are_gpt2s_at_every_published_width(size):
    """Width and heads are the published ones; two layers and a small vocabulary stand for the whole."""
    width, heads, _ = PUBLISHED[size]
    gpt2 = random_gpt2(n_embd=width, n_head=heads, vocab_size=211)
    ours = ScratchGPTForCausalLM.from_gpt2(gpt2)
    assert_equal_logits(gpt2, ours)
    assert ours.num_parameters() == gpt2.num_parameters()


@pytest.mark.parametrize("size", PUBLISHED)
def test_logits_are_gpt2s_at_every_published_depth(size):
    """True number of layers, an eighth of the width: errors that grow with depth would show."""
    width, _, layers = PUBLISHED[size]
    gpt2 = random_gpt2(n_embd=width // 8, n_head=4, n_layer=layers)
    assert_equal_logits(gpt2, ScratchGPTForCausalLM.from_gpt2(gpt2))


def test_the_whole_124m_model_converts_with_equal_logits_and_parameters():
    gpt2 = random_gpt2(n_embd=768, n_head=12, n_layer=12, vocab_size=50257, n_positions=1024)
    ours = ScratchGPTForCausalLM.from_gpt2(gpt2)
    assert count_parameters(ours).total == 124_439_808
    assert_equal_logits(gpt2, ours, seq=32)


def test_a_folder_converts_like_a_model_and_the_result_saves_and_generates_alike(tmp_path):
    gpt2 = random_gpt2()
    gpt2.save_pretrained(tmp_path / "gpt2")
    ours = ScratchGPTForCausalLM.from_gpt2(str(tmp_path / "gpt2"))
    ours.save_pretrained(tmp_path / "ours")
    loaded = ScratchGPTForCausalLM.from_pretrained(tmp_path / "ours")
    assert_equal_logits(gpt2, loaded)
    assert loaded.lm_head.weight is loaded.model.embed_tokens.weight
    prompt = torch.tensor([[3, 4, 5]])
    options = {"max_new_tokens": 8, "do_sample": False, "pad_token_id": 0}
    assert loaded.generate(prompt, **options).tolist() == gpt2.generate(prompt, **options).tolist()


def test_gradients_are_gpt2s():
    gpt2 = random_gpt2(resid_pdrop=0.0, embd_pdrop=0.0, attn_pdrop=0.0)
    ours, ids = ScratchGPTForCausalLM.from_gpt2(gpt2), torch.arange(20).view(2, 10)
    for model in (gpt2, ours):
        model.train()(ids, labels=ids).loss.backward()
    joined = gpt2.transformer.h[1].attn.c_attn.weight.grad.T
    parts = [getattr(ours.model.layers[1].self_attn, f"{letter}_proj").weight.grad for letter in "qkv"]
    torch.testing.assert_close(torch.cat(parts), joined, atol=1e-5, rtol=1e-4)
    torch.testing.assert_close(ours.lm_head.weight.grad, gpt2.lm_head.weight.grad, atol=1e-5, rtol=1e-4)


@pytest.mark.parametrize(
    "fields",
    [{"n_inner": 48}, {"activation_function": "gelu"}, {"tie_word_embeddings": False}, {"layer_norm_epsilon": 1e-3}],
    ids=str,
)
def test_settings_that_change_the_logits_are_taken_over(fields):
    gpt2 = random_gpt2(**fields)
    assert_equal_logits(gpt2, ScratchGPTForCausalLM.from_gpt2(gpt2))


def test_the_converted_model_owns_its_weights():
    gpt2 = random_gpt2()
    ours = ScratchGPTForCausalLM.from_gpt2(gpt2)
    before = gpt2.transformer.wte.weight.clone()
    with torch.no_grad():
        ours.model.embed_tokens.weight.zero_()
    torch.testing.assert_close(gpt2.transformer.wte.weight, before)


def test_bfloat16_weights_stay_bfloat16():
    assert ScratchGPTForCausalLM.from_gpt2(random_gpt2().bfloat16()).dtype == torch.bfloat16


@pytest.mark.parametrize(
    ("fields", "named"),
    [
        ({"scale_attn_by_inverse_layer_idx": True}, ["scale_attn_by_inverse_layer_idx"]),
        ({"reorder_and_upcast_attn": True}, ["reorder_and_upcast_attn"]),
        ({"scale_attn_weights": False}, ["scale_attn_weights"]),
        ({"activation_function": "relu", "reorder_and_upcast_attn": True}, ["'relu'", "reorder_and_upcast_attn"]),
        ({"embd_pdrop": 0.2}, ["embd_pdrop=0.2", "resid_pdrop=0.1"]),
    ],
)
def test_settings_that_are_not_computed_here_are_all_named(fields, named):
    with pytest.raises(ValueError, match="does not compute") as refused:
        ScratchGPTForCausalLM.from_gpt2(random_gpt2(**fields))
    assert all(name in str(refused.value) for name in named)


def test_another_kind_of_model_is_refused_by_name():
    with pytest.raises(ValueError, match="not a GPT2Model"):
        ScratchGPTForCausalLM.from_gpt2(random_gpt2().transformer)
