from __future__ import annotations

import json
import logging
import resource

import pytest
import torch
from cached_datasets import put_into_cache
from peft import PeftModel
from safetensors.torch import load_file
from transformers import AutoModelForCausalLM, AutoTokenizer, GenerationConfig
from tuned_adapters import TIED, TOKENIZER, adapter_on, logits_of, save, saved_base, train

from hf_finetune.chat.rendering import TemplateLimitError
from hf_finetune.cli.option_tables import OPTION_NAMES
from hf_finetune.errors import CannotWriteError, ConfigError, DataError, ModelError
from hf_finetune.folders import CARD_MARKER
from hf_finetune.models.adapters.loading import load_adapter
from hf_finetune.models.base_and_tuned import find_base
from hf_finetune.models.saved import load_for_generation
from hf_finetune.option_names import name_options
from hf_finetune.release import merge
from hf_finetune.release.merge import merge_adapter

FLOAT32 = {
    "default": ({}, {}),
    "dora, rslora": ({"use_dora": True, "use_rslora": True}, {}),
    "pissa": ({"init_lora_weights": "pissa"}, {}),
    "whole head": ({"modules_to_save": ["lm_head"]}, {}),
    "shared, whole head": ({"modules_to_save": ["lm_head"]}, TIED),
    "shared, whole embeddings": ({"modules_to_save": ["embed_tokens"]}, TIED),
    "added tokens": ({"trainable_token_indices": [5, 6]}, {}),
    "shared, added tokens": ({"trainable_token_indices": [5, 6]}, TIED),
}


@pytest.fixture
def tuned(tmp_path):
    """A trained adapter on a base of its own; returns the trained model and the folder."""

    def make(lora=None, fields=None, **section):
        base = saved_base(tmp_path / "base", **(fields or {}))
        trained = train(adapter_on(base, lora, **section))
        return trained, str(save(trained, tmp_path / "adapter"))

    return make


@pytest.mark.parametrize(("lora", "fields"), FLOAT32.values(), ids=FLOAT32.keys())
def test_a_merged_model_in_float32_is_the_adapter_over_its_base(tuned, tmp_path, lora, fields):
    trained, adapter = tuned(lora, fields)
    facts = merge_adapter(adapter, str(tmp_path / "merged"))
    merged = AutoModelForCausalLM.from_pretrained(tmp_path / "merged")
    assert (logits_of(trained) - logits_of(merged)).abs().max() <= 1e-5
    assert facts.max_logit_difference <= 1e-5
    assert facts.relative_loss_difference <= 1e-6
    shared = merged.get_input_embeddings().weight.data_ptr() == merged.get_output_embeddings().weight.data_ptr()
    assert shared == bool(fields)


@pytest.mark.parametrize("dtype", ["bfloat16", "float16"])
def test_a_merged_model_is_kept_in_16_bits_where_that_is_asked_for(tuned, tmp_path, dtype):
    _, adapter = tuned()
    facts = merge_adapter(adapter, str(tmp_path / "merged"), dtype=dtype)
    assert 1e-5 < facts.max_logit_difference < 0.1
    assert facts.relative_loss_difference <= 0.01
    assert AutoModelForCausalLM.from_pretrained(tmp_path / "merged").dtype == getattr(torch, dtype)


@pytest.mark.parametrize("dtype", ["bfloat16", "float16", "float32"])
def test_a_merged_model_is_kept_in_the_precision_of_its_base_which_is_said(tmp_path, caplog, dtype):
    base = changed_base(tmp_path, lambda model: model.to(getattr(torch, dtype)))
    adapter = save(train(adapter_on(base)), tmp_path / "adapter")
    with caplog.at_level("INFO"):
        facts = merge_adapter(str(adapter), str(tmp_path / "merged"))
    assert facts.dtype == dtype
    saved = load_file(tmp_path / "merged" / "model.safetensors").values()
    assert {each.dtype for each in saved} == {getattr(torch, dtype)}
    assert f"the merged weights are saved in {dtype} (--dtype)" in caplog.text


def test_merged_weights_beyond_the_range_of_float16_are_saved_in_float32_and_said(tmp_path, caplog):
    def enlarge(model):
        with torch.no_grad():
            model.get_input_embeddings().weight[0] = 70_000.0  # of padding
        return model

    adapter = save(train(adapter_on(changed_base(tmp_path, enlarge))), tmp_path / "adapter")
    facts = merge_adapter(str(adapter), str(tmp_path / "merged"), dtype="float16")
    assert facts.dtype == "float32"
    assert AutoModelForCausalLM.from_pretrained(tmp_path / "merged").dtype == torch.float32
    assert "weights are beyond the range of float16" in caplog.text


def changed_base(folder, change):
    """A base whose weights `change` has changed."""
    model = AutoModelForCausalLM.from_pretrained(saved_base(folder / "unchanged"))
    TOKENIZER.save_pretrained(folder / "base")
    change(model).save_pretrained(folder / "base")
    return folder / "base"


# peft asks for a property that transformers has renamed; our own loading keeps that from the user.
@pytest.mark.filterwarnings("ignore:`is_gradient_checkpointing` is deprecated:FutureWarning")
@pytest.mark.parametrize("section", [{"load_in_4bit": True}, {"load_in_8bit": True}], ids=["4 bits", "8 bits"])
@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
def test_a_quantized_base_is_dequantized_first(tuned, tmp_path, section, dtype):
    trained, adapter = tuned({}, {"hidden_size": 64}, **section)
    facts = merge_adapter(adapter, str(tmp_path / "merged"), dtype=dtype)
    assert facts.relative_loss_difference < 0.01
    merged = AutoModelForCausalLM.from_pretrained(tmp_path / "merged")
    assert not hasattr(merged.config, "quantization_config")
    if "load_in_8bit" in section:  # LLM.int8() rounds the activations too, which no merged model does
        return
    # The adapter over the stored base is another model than the one that was trained: merging into that would show.
    exact = PeftModel.from_pretrained(AutoModelForCausalLM.from_pretrained(tmp_path / "base"), adapter)
    difference = (logits_of(merged) - logits_of(trained)).abs().max()
    assert difference <= (1e-5 if dtype == "float32" else 0.1 * (logits_of(exact) - logits_of(trained)).abs().max())


def test_the_folder_is_a_model_that_knows_its_tokens_template_and_end(tuned, tmp_path):
    _, adapter = tuned()
    tokenizer = AutoTokenizer.from_pretrained(adapter)
    tokenizer.chat_template = "{% for message in messages %}{{ message.content }}{{ eos_token }}{% endfor %}"
    tokenizer.save_pretrained(adapter)
    merge_adapter(adapter, str(tmp_path / "merged"))
    names = {path.name for path in (tmp_path / "merged").iterdir()}
    assert {"config.json", "model.safetensors", "tokenizer.json", "chat_template.jinja"} <= names
    assert not any("adapter" in name for name in names)
    assert find_base(str(tmp_path / "merged")) == find_base(adapter), "what `score --base` compares with"
    assert GenerationConfig.from_pretrained(tmp_path / "merged").eos_token_id == [TOKENIZER.eos_token_id]
    model, again = load_for_generation(str(tmp_path / "merged"))
    assert not isinstance(model, PeftModel)
    assert again.chat_template == tokenizer.chat_template


def conversations(path, answers):
    rows = [
        {"messages": [{"role": "user", "content": "what?"}, {"role": "assistant", "content": answer}]}
        for answer in answers
    ]
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return str(path)


def test_the_loss_is_that_of_the_rows_that_are_named(tuned, tmp_path):
    trained, adapter = tuned()
    data = tmp_path / "rows.jsonl"
    texts = ["some text", "and another one"]
    data.write_text("".join(json.dumps({"text": text}) + "\n" for text in texts))
    facts = merge_adapter(adapter, str(tmp_path / "merged"), data=str(data))
    encoded = [torch.tensor([TOKENIZER(text, add_special_tokens=False)["input_ids"]]) for text in texts]
    with torch.no_grad():
        losses = [trained(input_ids=ids, labels=ids).loss.item() * (ids.numel() - 1) for ids in encoded]
    assert facts.rows == 2
    assert facts.loss_before == pytest.approx(sum(losses) / sum(ids.numel() - 1 for ids in encoded), rel=1e-5)


def test_of_a_hub_data_set_its_test_rows_are_named(tuned, tmp_path, datasets_cache):
    rows = [{"text": "cab"}, {"text": "abba"}]
    put_into_cache(datasets_cache, "some-org/letters", train=rows * 3, test=rows)
    _, adapter = tuned()
    assert merge_adapter(adapter, str(tmp_path / "merged"), data="some-org/letters").rows == 2
    with name_options(OPTION_NAMES["merge"]), pytest.raises(DataError, match=r"^nowhere.jsonl: --data: no such file"):
        merge_adapter(adapter, str(tmp_path / "other"), data="nowhere.jsonl")


def test_of_a_conversation_only_what_is_trained_counts(tuned, tmp_path):
    _, adapter = tuned()
    one = merge_adapter(adapter, str(tmp_path / "one"), data=conversations(tmp_path / "a.jsonl", ["yes", "no"]))
    assert one.rows == 2
    with pytest.raises(DataError):
        merge_adapter(adapter, str(tmp_path / "two"), data=str(tmp_path / "nowhere.jsonl"))
    assert not (tmp_path / "two").exists()


def test_without_rows_the_runs_own_validation_split_is_taken(tuned, tmp_path, caplog):
    _, adapter = tuned()
    data = conversations(tmp_path / "train.jsonl", [f"answer {letter}" for letter in "abcdefghij"])
    run_file = f"data: {{train: {data}, validation_fraction: 0.3}}\ntrain: {{seed: 3}}\n"
    (tmp_path / "adapter" / "run.yaml").write_text(run_file)
    with caplog.at_level(logging.INFO, logger="hf_finetune"):
        facts = merge_adapter(adapter, str(tmp_path / "merged"))
    assert facts.rows == 3
    said = [record.getMessage() for record in caplog.records]
    steps = [
        "to be compared on 3 rows of the run's validation split",
        "measuring the adapter on its base",
        "adding the adapter to the weights of its base",
        f"writing {tmp_path / 'merged'}",
        "loading it again, and measuring it on the same rows",
    ]
    assert [line for line in said if line in steps] == steps  # each before what it says is done
    (tmp_path / "train.jsonl").unlink()
    with caplog.at_level(logging.WARNING, logger="hf_finetune"):
        facts = merge_adapter(adapter, str(tmp_path / "merged"), overwrite=True)
    assert facts.rows == 64
    assert "64 rows of random tokens" in caplog.text


def test_a_merge_that_changes_the_model_is_refused_and_leaves_nothing(tuned, tmp_path, monkeypatch):
    _, adapter = tuned({"modules_to_save": ["lm_head"]})
    # What https://github.com/huggingface/transformers/issues/45127 does: the trained head is lost on the way.
    merged = merge._merge

    def with_another_head(*args):
        model = merged(*args)
        with torch.no_grad():
            model.lm_head.weight.copy_(model.model.embed_tokens.weight)
        return model

    monkeypatch.setattr(merge, "_merge", with_another_head)
    with pytest.raises(ModelError, match="the merged model differs") as refused:
        merge_adapter(adapter, str(tmp_path / "merged"))
    assert "at most 1.00% was allowed" in str(refused.value)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["adapter", "base"]


def test_in_float32_a_difference_that_the_loss_hides_is_refused_too(tuned, tmp_path, monkeypatch):
    _, adapter = tuned()
    merged = merge._merge

    def nearly(*args):
        model = merged(*args)
        with torch.no_grad():
            model.lm_head.weight.add_(1e-4)
        return model

    monkeypatch.setattr(merge, "_merge", nearly)
    with pytest.raises(ModelError, match="in float32 only rounding may differ"):
        merge_adapter(adapter, str(tmp_path / "merged"), tolerance=1.0)


def test_a_tolerance_of_one_bit_refuses_16_bits(tuned, tmp_path):
    _, adapter = tuned()
    with pytest.raises(ModelError, match="allow more with --tolerance"):
        merge_adapter(adapter, str(tmp_path / "merged"), dtype="bfloat16", tolerance=1e-9)
    assert not (tmp_path / "merged").exists()


def test_what_is_there_is_replaced_only_where_that_is_allowed(tuned, tmp_path):
    _, adapter = tuned()
    (tmp_path / "merged").mkdir()
    (tmp_path / "merged" / "notes.txt").write_text("mine")
    with pytest.raises(ConfigError, match="is there already"):
        merge_adapter(adapter, str(tmp_path / "merged"))
    assert (tmp_path / "merged" / "notes.txt").read_text() == "mine"
    with pytest.raises(ConfigError, match=r"holds notes\.txt, and is no model that hf-finetune has merged"):
        merge_adapter(adapter, str(tmp_path / "merged"), overwrite=True)
    assert (tmp_path / "merged" / "notes.txt").read_text() == "mine"
    (tmp_path / "merged" / "notes.txt").unlink()
    merge_adapter(adapter, str(tmp_path / "merged"))
    merge_adapter(adapter, str(tmp_path / "merged"), overwrite=True)
    for place in (adapter, str(tmp_path / "base"), str(tmp_path)):
        with pytest.raises(ConfigError, match="even with --overwrite it stays"):
            merge_adapter(adapter, place, overwrite=True)
    (tmp_path / "base" / "README.md").write_text(CARD_MARKER)  # a base that was merged itself
    with pytest.raises(ConfigError, match="take the place of the adapter or of its base"):
        merge_adapter(adapter, str(tmp_path / "base"), overwrite=True)
    load_adapter(adapter)


def test_a_merge_that_finds_no_room_is_one_message_and_leaves_nothing(tuned, tmp_path):
    _, adapter = tuned()
    limits = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (4_000, limits[1]))  # no file may be longer, as on a full disk
    try:
        with pytest.raises(CannotWriteError, match=r"merged: cannot be written \(File too large\); room does not help"):
            merge_adapter(adapter, str(tmp_path / "merged"))
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, limits)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["adapter", "base"]


def test_a_whole_model_is_not_merged(tmp_path):
    with pytest.raises(ModelError, match="is not an adapter"):
        merge_adapter(str(saved_base(tmp_path / "base")), str(tmp_path / "merged"))


def test_a_template_that_exceeds_a_limit_is_refused_once_and_before_weights_are_read(
    tuned, tmp_path, monkeypatch, caplog
):
    _, adapter = tuned()
    heavy = "{{ 'a' * 10 ** 10 }}"
    (tmp_path / "adapter" / "chat_template.jinja").write_text(heavy)
    monkeypatch.setattr(merge, "load_adapter", None)
    with pytest.raises(TemplateLimitError, match=r"took more than 256 MiB of memory on one conversation; look into it"):
        merge_adapter(adapter, str(tmp_path / "merged"))
    assert "256 MiB" not in caplog.text
    assert not (tmp_path / "merged").exists()


def test_the_base_may_have_moved(tuned, tmp_path):
    trained, adapter = tuned()
    (tmp_path / "base").rename(tmp_path / "moved")
    merge_adapter(adapter, str(tmp_path / "merged"), base=str(tmp_path / "moved"))
    merged = AutoModelForCausalLM.from_pretrained(tmp_path / "merged")
    assert (logits_of(trained) - logits_of(merged)).abs().max() <= 1e-5
