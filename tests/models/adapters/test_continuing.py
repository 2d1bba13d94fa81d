"""Training that goes on with a saved adapter: where it begins, what it keeps, and what contradicts it."""

from __future__ import annotations

import json
import shutil

import pytest
import torch
from transformers import AutoConfig, AutoModelForCausalLM
from tuned_adapters import TIED, adapter_on, logits_of, save, saved_base, train

from hf_finetune.config.sections import DataSection, ModelSection, Run
from hf_finetune.errors import ConfigError, FinetuneError, ModelError
from hf_finetune.files import hash_file
from hf_finetune.models.adapters.attach import attach_adapter, verify_adapter
from hf_finetune.models.adapters.continuing import continue_adapter
from hf_finetune.models.adapters.loading import load_adapter
from hf_finetune.models.base_and_tuned import find_base, find_origin
from hf_finetune.models.files.adapter import BASE_RECORD, read_base_record
from hf_finetune.models.files.provenance import describe_model_source
from hf_finetune.models.loading import load_causal_lm


def run_with(lora=None, **model) -> Run:
    settings = {"recipe": "lora", "data": DataSection(train="x"), "train": {}, "output_dir": "run"}
    return Run(model=ModelSection(**model), lora=lora, **settings)


def going_on(adapter, lora=None, **model):
    """The model in training of a run with `model.adapter`."""
    run = continue_adapter(run_with(lora, adapter=str(adapter), **model))
    base = load_causal_lm(run.model, AutoConfig.from_pretrained(run.model.path), 16, bf16=False)
    return attach_adapter(base, run.lora, run.model.adapter)


SETTINGS = {
    "default": {},
    "rank": {"r": 4, "lora_alpha": 16, "target_modules": ["q_proj", "v_proj"], "lora_dropout": 0.1},
    "dora, head": {"use_dora": True, "modules_to_save": ["lm_head"]},
    "pissa": {"init_lora_weights": "pissa"},
    "tokens": {"trainable_token_indices": [5, 6]},
}


@pytest.fixture
def base(tmp_path):
    return saved_base(tmp_path / "base")


@pytest.mark.parametrize("lora", SETTINGS.values(), ids=SETTINGS.keys())
@pytest.mark.parametrize("fields", [{}, TIED], ids=["two matrices", "one matrix"])
def test_training_goes_on_from_the_saved_weights_and_the_end_is_saved_and_verified(tmp_path, lora, fields):
    base = saved_base(tmp_path / "base", **fields)
    first = train(adapter_on(base, lora))
    one = save(first, tmp_path / "one")
    before = torch.get_rng_state()
    model = going_on(one)
    assert torch.equal(before, torch.get_rng_state())
    assert (logits_of(first) - logits_of(model)).abs().max() <= 1e-5
    trained = {name for name, weight in model.named_parameters() if weight.requires_grad}
    assert trained == {name for name, weight in first.named_parameters() if weight.requires_grad}
    two = save(train(model), tmp_path / "two")
    verify_adapter(model, two)
    assert not torch.allclose(logits_of(first), logits_of(model), atol=1e-3)
    assert torch.allclose(logits_of(load_adapter(str(two))[0]), logits_of(model), atol=1e-5)
    stored = [json.loads((folder / "adapter_config.json").read_text()) for folder in (one, two)]
    for config in stored:
        config["target_modules"] = sorted(config["target_modules"])
    assert stored[0] == stored[1]


def test_the_record_says_which_adapter_it_was_and_the_base_is_still_the_first(base, tmp_path):
    one = save(train(adapter_on(base)), tmp_path / "one")
    two = save(train(going_on(one)), tmp_path / "two")
    assert read_base_record(two).started_from == {
        "name_or_path": str(one),
        "sha256": hash_file(one / "adapter_model.safetensors"),
    }
    assert find_origin(str(two)) == str(one)
    assert find_origin(str(one)) is None
    assert find_base(str(two)) == str(base)
    run = continue_adapter(run_with(adapter=str(one)))
    assert (run.model.path, run.model.tokenizer) == (str(base), str(one))
    source = describe_model_source(run.model)
    assert source["adapter"]["sha256"]["adapter_model.safetensors"] == hash_file(one / "adapter_model.safetensors")
    assert source["name"] == str(base)


def test_a_base_that_has_moved_is_named_by_the_path_and_has_to_be_the_same(base, tmp_path):
    one = save(train(adapter_on(base)), tmp_path / "one")
    moved = shutil.move(base, tmp_path / "moved")
    with pytest.raises(ModelError, match=r"model.adapter: the base '.*base' of '.*one' is not there; .* model.path"):
        continue_adapter(run_with(adapter=str(one)))
    assert continue_adapter(run_with(adapter=str(one), path=str(moved))).model.path == str(moved)
    changed = AutoModelForCausalLM.from_pretrained(moved)
    with torch.no_grad():
        changed.model.layers[1].mlp.up_proj.weight.mul_(1.001)
    changed.save_pretrained(moved)
    with pytest.raises(ModelError, match=r"the adapter was trained on another model than '.*moved'"):
        continue_adapter(run_with(adapter=str(one), path=str(moved)))


def test_an_adapter_of_another_tool_is_compared_with_the_base_that_it_names(base, tmp_path):
    one = save(train(adapter_on(base)), tmp_path / "one")
    (one / BASE_RECORD).unlink()
    assert continue_adapter(run_with(adapter=str(one))).model.path == str(base)
    other = saved_base(tmp_path / "other", num_hidden_layers=1)
    with pytest.raises(ModelError, match=r"trained on another model"):
        continue_adapter(run_with(adapter=str(one), path=str(other)))


@pytest.mark.parametrize(
    ("given", "message"),
    [
        ({"r": 16}, r"lora.r: 16 contradicts the adapter's 4; leave it out"),
        ({"lora_alpha": 8}, r"lora.lora_alpha: 8 contradicts the adapter's 16"),
        ({"target_modules": ["q_proj"]}, r'lora.target_modules: \["q_proj"\] contradicts .* \["q_proj", "v_proj"\]'),
        ({"target_modules": "all-linear"}, r"lora.target_modules: 'all-linear' contradicts the adapter"),
        ({"modules_to_save": ["lm_head"]}, r'lora.modules_to_save: \["lm_head"\] contradicts the adapter\'s null'),
        ({"use_dora": True}, r"lora.use_dora: true contradicts the adapter's false"),
    ],
)
def test_a_setting_that_contradicts_the_adapter_is_refused_with_both_values(base, tmp_path, given, message):
    lora = {"r": 4, "lora_alpha": 16, "target_modules": ["q_proj", "v_proj"]}
    one = save(train(adapter_on(base, lora)), tmp_path / "one")
    going_on(one, {**lora, "target_modules": ["v_proj", "q_proj"]})
    with pytest.raises(ConfigError, match=message):
        going_on(one, lora | given)


def test_all_linear_is_what_an_adapter_on_all_of_them_has(base, tmp_path):
    one = save(train(adapter_on(base, {"r": 8})), tmp_path / "one")
    model = going_on(one, {"r": 8, "target_modules": "all-linear"})
    assert set(model.targeted_module_names) == set(adapter_on(base, {"r": 8}).targeted_module_names)


def test_an_adapter_on_a_quantized_base_is_trained_on_as_it_was(base, tmp_path):
    one = save(train(adapter_on(base, load_in_4bit=True)), tmp_path / "one")
    with pytest.raises(ConfigError, match=r"model.load_in_4bit: false contradicts the adapter, .* with true; set"):
        continue_adapter(run_with(adapter=str(one)))
    model = train(going_on(one, load_in_4bit=True))
    verify_adapter(model, save(model, tmp_path / "two"))
    plain = save(train(adapter_on(base)), tmp_path / "plain")
    with pytest.raises(ConfigError, match=r"model.load_in_8bit: true contradicts the adapter"):
        continue_adapter(run_with(adapter=str(plain), load_in_8bit=True))


def test_what_is_no_adapter_of_a_language_model_is_one_message(base, tmp_path):
    with pytest.raises(ModelError, match=r"is not an adapter: there is no adapter_config.json in it"):
        continue_adapter(run_with(adapter=str(base)))
    one = save(adapter_on(base), tmp_path / "one")
    record = json.loads((one / BASE_RECORD).read_text())
    named = {"id2label": {"0": "a", "1": "b"}, "problem_type": None, "pad_token_id": 0}
    (one / BASE_RECORD).write_text(json.dumps(record | {"classifier": named}))
    with pytest.raises(ModelError, match=r"model.adapter: .* is the adapter of a text classifier"):
        continue_adapter(run_with(adapter=str(one)))
    (one / BASE_RECORD).write_text(json.dumps(record))
    two = save(adapter_on(base), tmp_path / "two")
    with pytest.raises(ModelError, match=r"the base '.*two' of '.*one' is an adapter itself; merge that one"):
        continue_adapter(run_with(adapter=str(one), path=str(two)))


def test_a_checkpoint_of_pissa_is_not_gone_on_with(base, tmp_path):
    model = train(adapter_on(base, {"init_lora_weights": "pissa"}))
    model.save_pretrained(tmp_path / "checkpoint-1")
    with pytest.raises(FinetuneError, match=r"is a checkpoint of an adapter that rewrites its base"):
        going_on(tmp_path / "checkpoint-1")
