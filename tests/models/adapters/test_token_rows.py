"""Tokens that a chat template adds: their rows are trained with the adapter, saved in it, and merged."""

from __future__ import annotations

import json
import warnings
from pathlib import Path

import pytest
import torch
from models.scratch_models import tiny_model
from peft import AutoPeftModelForCausalLM
from safetensors.torch import load_file
from transformers import AutoConfig, AutoModelForCausalLM, GPT2Config, GPT2LMHeadModel, PhiConfig, PhiForCausalLM
from trl.trainer.utils import add_fused_lm_head
from tuned_adapters import TIED, logits_of, saved_base

from hf_finetune.chat.template import load_chat_template
from hf_finetune.config.sections import DataSection, ModelSection
from hf_finetune.errors import ConfigError, ModelError
from hf_finetune.models.adapters.attach import attach_adapter, save_adapter, verify_adapter
from hf_finetune.models.adapters.loading import load_adapter
from hf_finetune.models.files.adapter import read_base_record
from hf_finetune.models.loading import load_causal_lm
from hf_finetune.models.saved import load_for_generation
from hf_finetune.models.tokenizers import load_tokenizer
from hf_finetune.release.merge import merge_adapter

NEW = [61, 62]  # <|im_start|>, <|im_end|>, behind the 61 tokens of the base


def tuned(base: Path, folder: Path, lora: dict | None = None, **section):
    """A trained adapter under the template chatml, saved in `folder` with its tokenizer."""
    settings = ModelSection(path=str(base), **section)
    tokenizer = load_tokenizer(settings)
    load_chat_template(DataSection(train="x", chat_template="chatml"), tokenizer)
    config = AutoConfig.from_pretrained(base)
    model = attach_adapter(load_causal_lm(settings, config, 16, bf16=False, tokenizer=tokenizer), lora)
    optimizer = torch.optim.AdamW([p for p in model.parameters() if p.requires_grad], lr=0.01)
    ids = torch.tensor([[1, 61, 5, 6, 62, 61, 7, 8, 62, 2]])
    for _ in range(3):
        model.train()(input_ids=ids, labels=ids).loss.backward()
        optimizer.step()
        optimizer.zero_grad()
    model.eval().save_pretrained(folder)
    save_adapter(model, folder)
    tokenizer.save_pretrained(folder)
    return model


def logits(model) -> torch.Tensor:
    ids = torch.tensor([[1, 61, 5, 6, 62, 61, 7, 8, 62, 2]])
    with torch.no_grad():
        return model.eval()(input_ids=ids).logits.float()


def agree(one, other, tolerance=1e-5) -> bool:
    return bool((logits(one) - logits(other)).abs().max() <= tolerance)


def saved(folder: Path, model) -> Path:
    saved_base(folder)
    model.save_pretrained(folder)
    return folder


BASES = {
    "two matrices": lambda folder: saved_base(folder),
    "one matrix": lambda folder: saved_base(folder, **TIED),
    "gpt2": lambda folder: saved_base(folder, family="gpt2"),
    "rows to spare": lambda folder: saved_base(folder, vocab_size=80),
    "rows to spare, one matrix": lambda folder: saved_base(folder, vocab_size=80, **TIED),
    "transformers' gpt2": lambda folder: saved(
        folder, GPT2LMHeadModel(GPT2Config(vocab_size=61, n_positions=64, n_embd=32, n_layer=2, n_head=4))
    ),
}


@pytest.mark.parametrize("base", BASES.values(), ids=BASES.keys())
def test_the_rows_of_new_tokens_are_all_that_is_trained_of_embedding_and_head(tmp_path, base):
    base, folder = base(tmp_path / "base"), tmp_path / "adapter"
    with warnings.catch_warnings():
        warnings.simplefilter("error", UserWarning)  # peft would say that it saves the whole embedding
        model = tuned(base, folder)
    verify_adapter(model, folder)
    weights = load_file(folder / "adapter_model.safetensors")
    others = {name: tuple(weight.shape) for name, weight in weights.items() if "lora_" not in name}
    tied = model.config.tie_word_embeddings
    assert sorted(others.values()) == [(2, 32)] * (1 if tied else 2)
    assert all(name.endswith("token_adapter.trainable_tokens_delta") for name in others)
    rows = model.get_input_embeddings().weight
    stored = AutoModelForCausalLM.from_pretrained(base).get_input_embeddings().weight
    assert torch.equal(rows[:61], stored[:61])
    if tied:
        assert torch.equal(rows, model.get_output_embeddings().weight)
    grown = stored.shape[0] == 61
    assert read_base_record(folder).vocab_size == (63 if grown else None)
    assert model.config.vocab_size == (63 if grown else 80)


# peft asks for a property that transformers has renamed; our own loading keeps that from the user.
@pytest.mark.filterwarnings("ignore:`is_gradient_checkpointing` is deprecated:FutureWarning")
@pytest.mark.parametrize("base", BASES.values(), ids=BASES.keys())
def test_such_an_adapter_is_loaded_merged_and_loaded_by_peft_alone(tmp_path, base):
    base, folder = base(tmp_path / "base"), tmp_path / "adapter"
    model = tuned(base, folder)
    loaded, tokenizer = load_adapter(str(folder))
    assert agree(model, loaded)
    assert len(tokenizer) == 63
    # peft resizes the base to the tokenizer that lies beside the adapter, and knows nothing of us.
    alone = logits(AutoPeftModelForCausalLM.from_pretrained(folder))
    assert (logits(model)[..., :63] - alone[..., :63]).abs().max() <= 1e-5
    merged = merge_adapter(str(folder), str(tmp_path / "merged"))
    assert merged.max_logit_difference < 1e-4
    whole, _ = load_for_generation(str(tmp_path / "merged"))
    assert agree(model, whole, 1e-4)
    generation = json.loads((tmp_path / "merged" / "generation_config.json").read_text())
    assert 62 in generation["eos_token_id"]


@pytest.mark.parametrize(
    ("lora", "section"),
    [
        ({"init_lora_weights": "pissa"}, {}),
        ({"use_dora": True}, {}),
        ({}, {"dtype": "bfloat16"}),
        ({}, {"load_in_4bit": True}),
        ({"modules_to_save": ["embed_tokens"]}, {}),
        ({"modules_to_save": ["lm_head", "embed_tokens"]}, {}),
        ({"trainable_token_indices": [5, 6]}, {}),
        ({"trainable_token_indices": {"lm_head": [5]}}, {}),
    ],
    ids=str,
)
@pytest.mark.parametrize("tied", [False, True], ids=["two matrices", "one matrix"])
def test_the_rows_go_with_other_settings(tmp_path, lora, section, tied):
    if tied and isinstance(lora.get("trainable_token_indices"), dict):
        lora = {"trainable_token_indices": {"embed_tokens": [5]}}
    base, folder = saved_base(tmp_path / "base", tie_word_embeddings=tied), tmp_path / "adapter"
    model = tuned(base, folder, lora, **section)
    trained = [parameter for parameter in model.parameters() if parameter.requires_grad]
    assert {parameter.dtype for parameter in trained} == {torch.float32}
    verify_adapter(model, folder, tolerance=0.05 if section else 1e-5)
    assert agree(model, load_adapter(str(folder))[0], 0.05 if section else 1e-5)


def test_an_adapter_without_new_tokens_is_as_before(tmp_path):
    base = saved_base(tmp_path / "base")
    settings = ModelSection(path=str(base))
    tokenizer = load_tokenizer(settings)
    load_chat_template(DataSection(train="x"), tokenizer)
    model = load_causal_lm(settings, AutoConfig.from_pretrained(base), 16, bf16=False, tokenizer=tokenizer)
    plain = load_causal_lm(settings, AutoConfig.from_pretrained(base), 16, bf16=False)
    assert torch.equal(logits_of(model), logits_of(plain))
    adapted = attach_adapter(model, {})
    assert adapted.peft_config["default"].trainable_token_indices is None
    assert model.config.vocab_size == 61


def test_new_rows_are_drawn_alike_each_time_around_the_mean(tmp_path):
    base = saved_base(tmp_path / "base")
    settings = ModelSection(path=str(base))
    tokenizer = load_tokenizer(settings)
    load_chat_template(DataSection(train="x", chat_template="chatml"), tokenizer)
    rows = []
    for seed in (1, 2):
        torch.manual_seed(seed)
        before = torch.get_rng_state()
        model = load_causal_lm(settings, AutoConfig.from_pretrained(base), 16, bf16=False, tokenizer=tokenizer)
        assert torch.equal(before, torch.get_rng_state())
        rows.append(model.get_input_embeddings().weight.detach())
    assert torch.equal(rows[0], rows[1])
    assert torch.allclose(rows[0][61:], rows[0][:61].mean(dim=0), atol=1e-2)


def test_lora_on_the_embedding_itself_is_refused(tmp_path):
    base = saved_base(tmp_path / "base")
    with pytest.raises(ConfigError, match=r"lora.target_modules: model.embed_tokens gets LoRA, .* whole rows"):
        tuned(base, tmp_path / "adapter", {"target_modules": ["q_proj", "embed_tokens"]})


def test_a_head_whose_bias_would_be_lost_is_refused_unless_it_is_trained_in_whole(tmp_path):
    sizes = {"hidden_size": 32, "intermediate_size": 32, "num_hidden_layers": 1, "num_attention_heads": 4}
    base = saved(tmp_path / "base", PhiForCausalLM(PhiConfig(vocab_size=61, max_position_embeddings=64, **sizes)))
    with pytest.raises(ModelError, match=r"lora.modules_to_save: lm_head has a bias"):
        tuned(base, tmp_path / "adapter")
    model = tuned(base, tmp_path / "adapter", {"modules_to_save": ["lm_head"]})
    verify_adapter(model, tmp_path / "adapter")


def test_a_model_from_random_weights_gets_rows_too(tmp_path):
    tokenizer = load_tokenizer(ModelSection(path=str(saved_base(tmp_path / "base"))))
    load_chat_template(DataSection(train="x", chat_template="mistral"), tokenizer)
    model = tiny_model()
    from hf_finetune.models.embeddings import fit_embeddings

    fit_embeddings(model, tokenizer)
    assert model.get_output_embeddings().weight.shape[0] == model.config.vocab_size == 65


@pytest.mark.parametrize("tied", [False, True], ids=["two matrices", "one matrix"])
def test_the_loss_on_a_gpu_trains_the_rows_as_the_one_on_a_cpu_does(tmp_path, tied):
    """On a GPU TRL reads the head's `weight`, which peft makes of the base's and of the rows that are trained."""
    base, ids = saved_base(tmp_path / "base", tie_word_embeddings=tied), torch.tensor([[1, 61, 5, 6, 62, 61, 7, 62]])
    gradients = []
    for on_gpu in (False, True):
        settings = ModelSection(path=str(base))
        tokenizer = load_tokenizer(settings)
        load_chat_template(DataSection(train="x", chat_template="chatml"), tokenizer)
        loaded = load_causal_lm(settings, AutoConfig.from_pretrained(base), 16, bf16=False, tokenizer=tokenizer)
        add_fused_lm_head(loaded, outputs=("log_probs",))
        model = attach_adapter(loaded, {}).train()
        loss = model(input_ids=ids, labels=ids, **({"fused_lm_head": True} if on_gpu else {})).loss
        loss.backward()
        rows = {name: weight.grad for name, weight in model.named_parameters() if "trainable_tokens" in name}
        gradients.append((loss.item(), rows))
    (cpu_loss, on_cpu), (gpu_loss, on_gpu_rows) = gradients
    assert gpu_loss == pytest.approx(cpu_loss, rel=1e-5)
    assert len(on_cpu) == (1 if tied else 2)
    for name, gradient in on_cpu.items():
        assert gradient.abs().max() > 0
        assert torch.allclose(gradient, on_gpu_rows[name], atol=1e-6), name
