"""generation_config.json of a base: what contradicts itself is made consistent and said, the rest is refused."""

from __future__ import annotations

import copy
import json
import logging
from pathlib import Path

import pytest
import torch
from peft import PeftModel
from transformers import AutoConfig, AutoModelForCausalLM, AutoTokenizer, GenerationConfig, PreTrainedModel
from tuned_adapters import TOKENIZER, saved_base

from hf_finetune.chat.template import load_chat_template
from hf_finetune.config.sections import DataSection, ModelSection
from hf_finetune.errors import ModelError
from hf_finetune.models.adapters.attach import attach_adapter, save_adapter
from hf_finetune.models.generation_config import check_savable, stop_after_turns
from hf_finetune.models.loading import load_causal_lm
from hf_finetune.models.saved import load_for_generation
from hf_finetune.models.tokenizers import load_tokenizer

LLAMA_2 = {"temperature": 0.9, "top_p": 0.6, "eos_token_id": 2, "pad_token_id": 0}


@pytest.fixture
def loaded(tmp_path):
    """A tiny base with this generation_config.json (text as it stands), loaded for training."""

    def load(said: dict | str) -> PreTrainedModel:
        folder = saved_base(tmp_path / "base")
        text = said if isinstance(said, str) else json.dumps(said)
        (folder / "generation_config.json").write_text(text, encoding="utf-8")
        return load_causal_lm(ModelSection(path=str(folder)), AutoConfig.from_pretrained(folder), 16, bf16=False)

    return load


def saved_settings(model: PreTrainedModel, folder: Path) -> dict:
    """What lies in the folder once the end of a turn was written into the settings, as sft does."""
    tokenizer = copy.deepcopy(TOKENIZER)  # other tests share it
    tokenizer.chat_template = "{% for m in messages %}{{ m.content }}{{ eos_token }}{% endfor %}"
    stop_after_turns(model, tokenizer)
    model.save_pretrained(folder)
    return json.loads((folder / "generation_config.json").read_text(encoding="utf-8"))


@pytest.mark.parametrize(
    ("said", "kept", "gone", "words"),
    [
        (LLAMA_2, {"temperature": 0.9, "top_p": 0.6, "do_sample": True}, (), "do_sample: true is added"),
        ({"top_k": 10}, {"top_k": 10, "do_sample": True}, (), "do_sample: true is added"),
        ({"do_sample": False, "temperature": 0.9}, {"do_sample": False}, ("temperature",), "temperature left out"),
        ({"temperature": 0.0, "top_p": 0.5}, {}, ("temperature", "top_p", "do_sample"), "temperature, top_p left out"),
        ({"length_penalty": 0.8, "early_stopping": True}, {}, ("length_penalty", "early_stopping"), "left out"),
        ({"pad_token_id": -1}, {"pad_token_id": 0}, (), "pad_token_id left out"),
        ({"use_cache": False, "cache_implementation": "static"}, {"use_cache": False}, ("cache_implementation",), ""),
        ({"output_scores": True}, {}, ("output_scores",), "output_scores left out"),
    ],
)  # fmt: skip
def test_a_file_that_contradicts_itself_is_made_consistent_and_saved(loaded, tmp_path, caplog, said, kept, gone, words):
    with caplog.at_level(logging.WARNING):
        model = loaded(said)
    assert caplog.text.count("generation_config.json of") == 1
    assert words in caplog.text
    saved = saved_settings(model, tmp_path / "saved")
    assert saved.items() >= {**kept, "eos_token_id": [TOKENIZER.eos_token_id]}.items()
    assert not saved.keys() & set(gone)


@pytest.mark.parametrize(
    "said",
    [
        {"do_sample": True, "temperature": 0.6, "top_p": 0.9, "repetition_penalty": 1.1},
        {"num_beams": 4, "length_penalty": 2.0, "early_stopping": True, "temperature": 1.0},
        {"max_new_tokens": 5},
    ],
)
def test_a_file_without_a_contradiction_is_saved_as_it_is_and_nothing_is_said(loaded, tmp_path, caplog, said):
    with caplog.at_level(logging.WARNING):
        model = loaded(said)
    assert "contradicts" not in caplog.text
    own = {"eos_token_id", "pad_token_id", "transformers_version"}
    saved = saved_settings(model, tmp_path / "saved")
    assert {key: value for key, value in saved.items() if key not in own} == said


def test_settings_of_sampling_in_an_old_config_json_are_made_consistent_too(tmp_path):
    folder = saved_base(tmp_path / "base")
    (folder / "generation_config.json").unlink()
    config = json.loads((folder / "config.json").read_text())
    (folder / "config.json").write_text(json.dumps({**config, "temperature": 0.7}))
    model = load_causal_lm(ModelSection(path=str(folder)), AutoConfig.from_pretrained(folder), 16, bf16=False)
    assert saved_settings(model, tmp_path / "saved").items() >= {"temperature": 0.7, "do_sample": True}.items()


@pytest.mark.parametrize(
    ("said", "reason"),
    [
        ({"num_return_sequences": 2}, "Greedy methods"),
        ({"max_new_tokens": "many"}, "not a whole number"),
        ({"temperature": "hot", "do_sample": False, "early_stopping": []}, "not a number or nothing"),
        ({"streamer": 1}, "not a valid argument"),
    ],
)
def test_a_file_that_cannot_be_used_is_refused_by_its_name_before_any_training(loaded, tmp_path, said, reason):
    with pytest.raises(
        ModelError, match=rf"generation_config\.json: .*cannot be used.*{reason}.*; correct it in a copy"
    ):
        loaded(said)
    with pytest.raises(ModelError, match=r"generation_config\.json"):
        load_for_generation(str(tmp_path / "base"))


@pytest.mark.parametrize("said", ['{"temperature": 0.9,', "[1]"])
def test_a_torn_file_is_named(loaded, said):
    with pytest.raises(ModelError, match=r"generation_config\.json: is damaged: it holds no JSON object; copy"):
        loaded(said)


def test_settings_that_could_not_be_saved_after_training_are_refused_at_once(tmp_path):
    model = AutoModelForCausalLM.from_pretrained(saved_base(tmp_path / "base"))
    check_savable(model, "base")
    model.config.temperature = 0.5  # what transformers refuses to write into a config.json
    with pytest.raises(ModelError, match="base: cannot be saved again once it is trained"):
        check_savable(model, "base")


# peft asks for a property that transformers has renamed; our own loading keeps that from the user.
@pytest.mark.filterwarnings("ignore:`is_gradient_checkpointing` is deprecated:FutureWarning")
@pytest.mark.parametrize("adapter", [False, True], ids=["model", "adapter"])
def test_what_was_saved_stops_where_turns_end_in_plain_transformers(tmp_path, adapter):
    section = ModelSection(path=str(saved_base(tmp_path / "base")))
    tokenizer = load_tokenizer(section)
    load_chat_template(DataSection(train="x", chat_template="chatml"), tokenizer)  # <|im_end|> is not its end token
    config = AutoConfig.from_pretrained(tmp_path / "base")
    model = load_causal_lm(section, config, 32, bf16=False, tokenizer=tokenizer)
    model = attach_adapter(model, {"r": 16}) if adapter else model
    stop_after_turns(model, tokenizer)
    asked = [{"role": "user", "content": "Hi"}]
    learn(model, tokenizer.apply_chat_template([*asked, {"role": "assistant", "content": "yes"}])["input_ids"])
    saved = tmp_path / "saved"
    model.save_pretrained(saved)
    tokenizer.save_pretrained(saved)
    if adapter:
        save_adapter(model, saved, tokenizer)
    plain = AutoTokenizer.from_pretrained(saved)
    loaded = AutoModelForCausalLM.from_pretrained(tmp_path / "base" if adapter else saved)
    if adapter:
        loaded.generation_config = GenerationConfig.from_pretrained(saved)
        loaded.resize_token_embeddings(len(plain), mean_resizing=False)
        loaded = PeftModel.from_pretrained(loaded, saved)
    inputs = plain.apply_chat_template(asked, add_generation_prompt=True, return_tensors="pt")
    said = loaded.generate(**inputs, max_new_tokens=8, do_sample=False)[0, inputs["input_ids"].shape[1] :]
    assert plain.decode(said) == "yes<|im_end|>"
    end = plain.eos_token_id  # that of the base alone: it would go on
    said = loaded.generate(**inputs, max_new_tokens=8, do_sample=False, eos_token_id=end)[0, -8:]
    assert len(plain.decode(said)) > len("yes<|im_end|>")


def learn(model, ids: list[int]) -> None:
    """Train until the model says these tokens by heart."""
    optimizer = torch.optim.AdamW([p for p in model.parameters() if p.requires_grad], lr=0.01)
    for _ in range(60):
        model.train()(input_ids=torch.tensor([ids]), labels=torch.tensor([ids])).loss.backward()
        optimizer.step()
        optimizer.zero_grad()
    model.eval()
