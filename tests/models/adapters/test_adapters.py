from __future__ import annotations

import json
import logging
import shutil

import pytest
import torch
from models.scratch_models import tiny_model, token_ids
from peft import PeftModel
from transformers import AutoConfig, AutoModelForCausalLM
from tuned_adapters import TIED, TOKENIZER, adapter_on, logits_of, save, saved_base, train

from hf_finetune.config.sections import ModelSection
from hf_finetune.errors import ConfigError, ModelError, NonFiniteError
from hf_finetune.models.adapters.attach import attach_adapter, name_saved_weights, verify_adapter
from hf_finetune.models.adapters.loading import load_adapter
from hf_finetune.models.files.adapter import (
    BASE_RECORD,
    compute_fingerprint,
    is_adapter,
    read_base_name,
    read_base_record,
)
from hf_finetune.models.loading import load_causal_lm
from hf_finetune.privacy import make_portable
from hf_finetune.training.sharding.saved import verify_tensors

# All that a run file may ask for and that changes what is saved.
SETTINGS = {
    "default": {},
    "gaussian": {"r": 4, "lora_alpha": 16, "init_lora_weights": "gaussian", "target_modules": ["q_proj", "v_proj"]},
    "random": {"init_lora_weights": False},
    "orthogonal": {"init_lora_weights": "orthogonal"},
    "dora": {"use_dora": True},
    "rslora": {"use_rslora": True},
    "pattern": {"target_modules": r".*layers\.1\.self_attn\.[qv]_proj", "rank_pattern": {"q_proj": 2}},
    "whole head": {"modules_to_save": ["lm_head"]},
    "whole embeddings": {"modules_to_save": ["embed_tokens", "lm_head"]},
    "some tokens": {"trainable_token_indices": [5, 6]},
    "pissa": {"init_lora_weights": "pissa"},
    "pissa, rslora": {"init_lora_weights": "pissa", "use_rslora": True, "lora_alpha": 12},
    "pissa, ranks": {"init_lora_weights": "pissa", "rank_pattern": {"q_proj": 4}, "alpha_pattern": {"k_proj": 3}},
    "fast pissa, dora, head": {"init_lora_weights": "pissa_niter_4", "use_dora": True, "modules_to_save": ["lm_head"]},
    "olora": {"init_lora_weights": "olora"},
}


@pytest.fixture
def base(tmp_path):
    return saved_base(tmp_path / "base")


def agree(one, other, tolerance=1e-5):
    return (logits_of(one) - logits_of(other)).abs().max() <= tolerance


# peft asks for a property that transformers has renamed; our own loading keeps that from the user.
@pytest.mark.filterwarnings("ignore:`is_gradient_checkpointing` is deprecated:FutureWarning")
@pytest.mark.parametrize("lora", SETTINGS.values(), ids=SETTINGS.keys())
def test_an_adapter_over_a_fresh_base_is_the_model_that_was_trained(base, tmp_path, lora):
    trained = train(adapter_on(base, lora))
    folder = save(trained, tmp_path / "adapter")
    verify_adapter(trained, folder)
    # Of a model that is split over processes the file is compared instead, under the names that it has there.
    whole = {name: each for name, each in trained.state_dict(keep_vars=True).items() if each.requires_grad}
    verify_tensors(folder, name_saved_weights(trained, whole), shown=folder)
    # peft alone, which knows nothing of us, gives the same model.
    alone = PeftModel.from_pretrained(AutoModelForCausalLM.from_pretrained(base), str(folder))
    assert agree(trained, alone)
    assert not agree(trained, AutoModelForCausalLM.from_pretrained(base), 1e-3)


@pytest.mark.parametrize("whole", [["lm_head"], ["embed_tokens"], ["embed_tokens", "lm_head"]])
def test_embeddings_that_are_shared_stay_shared_when_they_are_trained(tmp_path, whole):
    trained = train(adapter_on(saved_base(tmp_path / "base", **TIED), {"modules_to_save": whole}))
    assert trained.get_input_embeddings().weight.data_ptr() == trained.get_output_embeddings().weight.data_ptr()
    folder = save(trained, tmp_path / "adapter")
    verify_adapter(trained, folder)
    assert agree(trained, load_adapter(str(folder))[0])


@pytest.mark.parametrize("section", [{"dtype": "bfloat16"}, {"dtype": "float16"}, {"load_in_4bit": True}])
def test_trained_weights_are_float32_whatever_the_base_is(base, tmp_path, section):
    trained = train(adapter_on(base, {"use_dora": True}, **section))
    assert {p.dtype for p in trained.parameters() if p.requires_grad} == {torch.float32}
    assert {p.dtype for p in trained.parameters() if not p.requires_grad} != {torch.float32}
    verify_adapter(trained, save(trained, tmp_path / "adapter"))


@pytest.mark.parametrize(
    ("lora", "section"),
    [({}, {}), ({"modules_to_save": ["lm_head"]}, {}), ({"use_dora": True}, {}), ({}, {"dtype": "bfloat16"})],
)
def test_a_4_bit_base_is_loaded_again_as_it_was(base, tmp_path, lora, section):
    trained = train(adapter_on(base, lora, load_in_4bit=True, **section))
    folder = save(trained, tmp_path / "adapter")
    verify_adapter(trained, folder)
    loaded, _ = load_adapter(str(folder))
    assert loaded.get_base_model().is_loaded_in_4bit
    assert agree(trained, loaded)


def test_an_8_bit_base_is_loaded_again_as_it_was(base, tmp_path):
    trained = train(adapter_on(base, load_in_8bit=True))
    folder = save(trained, tmp_path / "adapter")
    verify_adapter(trained, folder)
    assert agree(trained, load_adapter(str(folder))[0])


def test_an_evaluation_in_between_leaves_a_4_bit_base_and_its_gradients_as_they_were(tmp_path):
    # Sizes that bitsandbytes would pack for the AVX512-BF16 kernel, on a CPU that has it.
    base = saved_base(tmp_path / "base", hidden_size=64)
    model = adapter_on(base, load_in_4bit=True)
    ids = token_ids(2, 16)

    def gradients():
        model.train()
        model.zero_grad()
        model(input_ids=ids, labels=ids).loss.backward()
        return [p.grad.clone() for p in model.parameters() if p.requires_grad]

    before = gradients()
    logits_of(model)
    assert all(torch.equal(one, other) for one, other in zip(before, gradients(), strict=True))


def test_pissa_takes_nothing_from_the_base_that_others_see(base, tmp_path):
    folder = save(train(adapter_on(base, {"init_lora_weights": "pissa"})), tmp_path / "adapter")
    loaded, _ = load_adapter(str(folder))
    with loaded.disable_adapter():
        assert agree(loaded, AutoModelForCausalLM.from_pretrained(base))


def test_what_is_trained_is_said(base, caplog):
    with caplog.at_level(logging.INFO, logger="hf_finetune"):
        model = adapter_on(base, {"r": 4, "target_modules": ["q_proj", "v_proj"], "modules_to_save": ["lm_head"]})
    weights = 2 * 2 * 4 * (32 + 32) + 61 * 32  # two modules of two layers, A and B; the head
    total = sum(p.numel() for p in model.parameters())
    expected = f"adapter: {weights / total:.2%} of {total:,} parameters trained, r=4 on q_proj (2), v_proj (2)"
    assert f"{expected}, all of lm_head" in caplog.text


def test_names_that_no_module_has_are_refused_together_with_those_that_there_are(base):
    with pytest.raises(ConfigError) as refused:
        adapter_on(base, {"target_modules": ["q_porj", "k_proj"], "modules_to_save": ["head"]})
    first, second = refused.value.problems
    assert (first.key, second.key) == ("lora.target_modules", "lora.modules_to_save")
    assert "'q_porj' matches no module" in first.what
    assert "did you mean q_proj?" in first.remedy
    assert "q_proj (2), k_proj (2)" in first.remedy
    assert "up_proj (2)" in first.remedy


@pytest.mark.parametrize(
    ("lora", "said"),
    [
        ({"target_modules": ".*nothing"}, "'.*nothing' matches no module of this model; it has embed_tokens (1)"),
        ({"target_modules": "q_proj("}, "is no regular expression"),
        ({"target_modules": ["mlp"]}, "peft refuses these settings (Target module"),
        (
            {"target_modules": ["q_proj"], "layers_to_transform": [9]},
            "this model has no layer 9; its layers are 0 to 1",
        ),
        ({"target_modules": []}, "peft refuses these settings"),
        ({"r": 0}, "peft refuses these settings"),
        ({"target_modules": ["lm_head"]}, "an adapter on the output head"),
        ({"init_lora_weights": "eva"}, "eva needs a pass over data"),
        ({"init_lora_weights": "nonsense"}, "peft refuses these settings"),
    ],
)
def test_settings_that_train_nothing_or_something_else_are_refused(base, lora, said):
    with pytest.raises(ConfigError) as refused:
        adapter_on(base, lora)
    assert said in str(refused.value)


@pytest.mark.parametrize(
    ("lora", "key", "module"),
    [
        ({"use_dora": True}, "use_dora", "base_model.model.model.layers.1.mlp.down_proj"),
        ({"target_modules": ["embed_tokens"]}, "target_modules", "base_model.model.model.embed_tokens"),
        ({"trainable_token_indices": [5]}, "trainable_token_indices", "embed_tokens.token_adapter"),
        ({}, None, ""),
    ],
)
def test_what_reads_whole_weights_is_refused_under_zero3_before_a_step(base, monkeypatch, lora, key, module):
    for name, value in (("USE_DEEPSPEED", "true"), ("DEEPSPEED_ZERO_STAGE", "3")):
        monkeypatch.setenv(f"ACCELERATE_{name}", value)
    if key is None:
        assert adapter_on(base, lora)
        return
    with pytest.raises(ConfigError, match=f"which ZeRO-3 takes apart: .*{module} is one; leave it out") as refused:
        adapter_on(base, lora)
    assert [(each.key, each.code) for each in refused.value.problems] == [(f"lora.{key}", "HF688")]


def test_an_adapter_without_anything_to_train_is_refused(base):
    with pytest.raises(ModelError, match="0 parameters to train"):
        adapter_on(base, {"init_lora_weights": "orthogonal", "target_modules": ["q_proj"], "inference_mode": True})


def test_rounded_weights_are_not_trained(base):
    with pytest.raises(ModelError, match=r"1 trained weights would be torch.bfloat16.*lm_head"):
        adapter_on(base, {"modules_to_save": ["lm_head"]}, dtype="bfloat16")


@pytest.mark.parametrize("section", [{"load_in_4bit": True}, {"dtype": "bfloat16"}])
def test_what_rewrites_the_base_is_refused_where_that_is_rounded(base, section):
    with pytest.raises(ConfigError, match="rewrites the base's weights"):
        adapter_on(base, {"init_lora_weights": "pissa"}, **section)


def test_an_adapter_on_random_weights_is_refused():
    with pytest.raises(ModelError, match="a base that is stored"):
        attach_adapter(tiny_model(), {})


def test_an_adapter_that_is_not_what_was_trained_is_found(base, tmp_path):
    trained = train(adapter_on(base))
    folder = save(trained, tmp_path / "adapter")
    with torch.no_grad():
        trained.base_model.model.model.layers[0].self_attn.q_proj.lora_B["default"].weight.add_(0.01)
    with pytest.raises(ModelError, match="logits differ"):
        verify_adapter(trained, folder)


def test_weights_that_are_not_finite_do_not_pass_as_equal(base, tmp_path):
    trained = train(adapter_on(base))
    with torch.no_grad():
        trained.base_model.model.model.layers[0].self_attn.q_proj.lora_B["default"].weight.fill_(float("nan"))
    with pytest.raises(NonFiniteError, match="no finite numbers"):
        verify_adapter(trained, save(trained, tmp_path / "adapter"))


def test_verifying_draws_no_random_numbers(base, tmp_path):
    trained = train(adapter_on(base))
    folder = save(trained, tmp_path / "adapter")
    before = torch.get_rng_state()
    verify_adapter(trained, folder)
    assert torch.equal(before, torch.get_rng_state())


def test_the_folder_says_which_base_it_needs_and_how_it_was_loaded(base, tmp_path):
    folder = save(adapter_on(base, load_in_4bit=True, dtype="bfloat16"), tmp_path / "adapter")
    record = json.loads((folder / BASE_RECORD).read_text())
    assert record["name_or_path"] == str(base) == read_base_name(folder)
    assert record["fingerprint"] == compute_fingerprint(str(base))
    assert (record["dtype"], record["quantization"]["bnb_4bit_quant_type"]) == ("bfloat16", "nf4")
    assert is_adapter(folder)
    assert not is_adapter(base)
    assert not is_adapter(tmp_path / "nowhere" / "at" / "all")


def test_no_name_of_a_user_or_folder_of_the_machine_is_in_an_adapter(base, tmp_path, monkeypatch):
    monkeypatch.setenv("HOME", str(tmp_path))
    folder = save(adapter_on(base), tmp_path / "adapter")
    assert not any(str(tmp_path) in path.read_text() for path in folder.glob("*.json"))
    assert read_base_name(folder) == str(base)
    assert read_base_record(folder).name_or_path == str(base)
    monkeypatch.chdir(tmp_path)
    assert make_portable(str(base)) == "base"
    assert make_portable("org/model") == "org/model"


def test_a_copy_of_the_base_is_the_base_and_a_trained_one_is_not(base, tmp_path):
    folder = save(train(adapter_on(base)), tmp_path / "adapter")
    copy = shutil.copytree(base, tmp_path / "copy")
    load_adapter(str(folder), base=str(copy))
    changed = AutoModelForCausalLM.from_pretrained(base)
    with torch.no_grad():
        changed.model.layers[1].mlp.up_proj.weight.mul_(1.001)
    changed.save_pretrained(copy)
    with pytest.raises(ModelError, match="trained on another model"):
        load_adapter(str(folder), base=str(copy))


def test_a_base_that_computes_otherwise_is_another(base):
    before = compute_fingerprint(str(base))
    config = json.loads((base / "config.json").read_text())
    (base / "config.json").write_text(json.dumps(config | {"transformers_version": "9.9", "use_cache": False}))
    assert compute_fingerprint(str(base)) == before
    (base / "config.json").write_text(json.dumps(config | {"rope_theta": 500.0}))
    assert compute_fingerprint(str(base)) != before


@pytest.mark.parametrize(
    ("trained_on", "put_on"),
    [
        ({}, {"hidden_size": 64}),
        ({}, {"num_hidden_layers": 1}),
        ({"num_hidden_layers": 1}, {}),
        ({"gated_mlp": True}, {}),
    ],
    ids=["other shapes", "layers too few", "layers too many", "modules that are missing"],
)
def test_an_adapter_of_others_for_another_base_is_refused(tmp_path, trained_on, put_on):
    names = ["q_proj", "gate_proj" if "gated_mlp" in trained_on else "up_proj"]
    trained = adapter_on(saved_base(tmp_path / "base", **trained_on), {"target_modules": names})
    folder = save(trained, tmp_path / "adapter")
    (folder / BASE_RECORD).unlink()
    other = saved_base(tmp_path / "other", **put_on)
    with pytest.raises(ModelError, match="trained on another model"):
        load_adapter(str(folder), base=str(other))
    shutil.rmtree(tmp_path / "base")  # with which it can be compared no more
    with pytest.raises(ModelError, match="does not fit this base"):
        load_adapter(str(folder), base=str(other))


def test_an_adapter_of_others_is_loaded_by_its_own_configuration(base, tmp_path):
    trained = train(adapter_on(base))
    trained.save_pretrained(tmp_path / "adapter")  # as peft leaves it, without a tokenizer
    loaded, tokenizer = load_adapter(str(tmp_path / "adapter"))
    assert agree(trained, loaded)
    assert tokenizer.get_vocab() == TOKENIZER.get_vocab()


def test_an_unfinished_run_of_a_random_decomposition_is_refused(base, tmp_path):
    model = train(adapter_on(base, {"init_lora_weights": "pissa_niter_2"}))
    model.save_pretrained(tmp_path / "checkpoint-1")
    with pytest.raises(ModelError, match="resume training from it"):
        load_adapter(str(tmp_path / "checkpoint-1"))


def test_a_base_that_is_gone_or_an_adapter_itself_is_one_message(base, tmp_path):
    folder = save(adapter_on(base), tmp_path / "adapter")
    second = shutil.copytree(folder, tmp_path / "second")
    with pytest.raises(ModelError, match="is an adapter, not a model"):
        load_adapter(str(second), base=str(folder))
    shutil.rmtree(base)
    with pytest.raises(ModelError, match=r"base .* cannot be loaded .*; say where it is now with --base"):
        load_adapter(str(folder))


def test_pickled_weights_are_not_opened(base, tmp_path):
    folder = save(adapter_on(base), tmp_path / "adapter")
    (folder / "adapter_model.safetensors").rename(folder / "adapter_model.bin")
    with pytest.raises(ModelError, match="pickled weights are not loaded"):
        load_adapter(str(folder))


def test_a_resumed_run_begins_with_the_same_adapter_whatever_was_drawn_before(base):
    def begun(draws):
        settings = ModelSection(path=str(base))
        model = load_causal_lm(settings, AutoConfig.from_pretrained(base), 16, bf16=False)
        torch.manual_seed(1)
        torch.randn(draws)
        return attach_adapter(model, {"init_lora_weights": "pissa_niter_2"}).state_dict()

    one, other = begun(0), begun(7)
    assert all(torch.equal(one[name], other[name]) for name in one)


def test_an_adapter_of_another_kind_and_one_without_a_base_are_one_message(base, tmp_path):
    folder = save(adapter_on(base), tmp_path / "adapter")
    file = folder / "adapter_config.json"
    config = json.loads(file.read_text())
    file.write_text(json.dumps({"peft_type": "IA3", "base_model_name_or_path": str(base), "task_type": "CAUSAL_LM"}))
    with pytest.raises(ModelError, match="adapter of the kind"):
        load_adapter(str(folder))
    (folder / BASE_RECORD).unlink()
    file.write_text(json.dumps(config | {"base_model_name_or_path": None}))
    with pytest.raises(ModelError, match="does not say which model"):
        load_adapter(str(folder))
