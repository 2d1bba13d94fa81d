"""Models of others: no code of theirs is run, no file beside their own is read, and what is damaged is said."""

from __future__ import annotations

import json
import os
import pickle
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from peft import PeftModel
from safetensors.torch import load_file, save_file
from transformers import AutoConfig, AutoModelForCausalLM, GPT2Config, GPT2LMHeadModel
from tuned_adapters import TOKENIZER, adapter_on, save, saved_base, train
from tuned_classifiers import SPAM, saved_backbone

from hf_finetune.config.sections import ModelSection
from hf_finetune.errors import ModelError
from hf_finetune.models.adapters.loading import load_adapter
from hf_finetune.models.classifiers import load_classifier
from hf_finetune.models.loading import load_causal_lm, load_config
from hf_finetune.models.saved import load_for_generation, load_for_prediction
from hf_finetune.models.tokenizers import load_tokenizer
from hf_finetune.release.merge import merge_adapter


class Evil:
    """A pickle that makes a file where it is opened without care."""

    def __init__(self, mark: Path) -> None:
        self.mark = mark

    def __reduce__(self) -> tuple[Any, ...]:
        return Path.touch, (self.mark,)


@pytest.fixture
def mark(tmp_path: Path) -> Path:
    """Is there once code of a model has run."""
    return tmp_path / "code-has-run"


@pytest.fixture
def model(tmp_path: Path) -> Path:
    return saved_base(tmp_path / "model")


def as_pickle(folder: Path, mark: Path, weights: str = "model.safetensors", name: str = "pytorch_model.bin") -> None:
    (folder / weights).unlink()
    (folder / name).write_bytes(pickle.dumps(Evil(mark)))


def edit(path: Path, **changes: Any) -> None:
    values = json.loads(path.read_text()) if path.exists() else {}
    path.write_text(json.dumps(values | changes))


def trained_from(path: Path) -> None:
    section = ModelSection(path=str(path))
    load_causal_lm(section, load_config(section, TOKENIZER), 8, bf16=False)


def classifier_from(path: Path) -> None:
    section = ModelSection(path=str(path))
    load_classifier(section, load_config(section, TOKENIZER), SPAM, 8, bf16=False, pad_token_id=0)


def talked_to(path: Path) -> None:
    model, _ = load_for_generation(str(path))
    assert model.num_parameters() > 0


ENTRIES: dict[str, Callable[[Path], None]] = {
    "training": trained_from,
    "classification": classifier_from,
    "generate": talked_to,
}


def refusal(work: Callable[[], Any]) -> str:
    with pytest.raises(ModelError) as refused:
        work()
    return str(refused.value)


@pytest.mark.parametrize("entry", ENTRIES)
def test_pickled_weights_are_never_opened_and_the_way_out_is_said(model, mark, entry):
    as_pickle(model, mark)
    said = refusal(lambda: ENTRIES[entry](model))
    assert "has its weights as pytorch_model.bin, a pickle" in said
    assert said.endswith("save_pretrained it [HF506]")
    assert not mark.exists()


def test_a_pickled_classifier_or_base_of_an_adapter_is_not_opened(tmp_path, mark):
    classifier = saved_backbone(tmp_path / "bert", "bert")
    as_pickle(classifier, mark)
    assert "a pickle" in refusal(lambda: load_for_prediction(str(classifier)))
    base = saved_base(tmp_path / "base")
    adapter = save(adapter_on(base), tmp_path / "adapter")
    as_pickle(base, mark)
    assert "a pickle" in refusal(lambda: load_adapter(str(adapter)))
    assert "a pickle" in refusal(lambda: merge_adapter(str(adapter), str(tmp_path / "merged")))
    assert not mark.exists()


def test_a_pickled_adapter_is_not_opened(tmp_path, mark):
    base = saved_base(tmp_path / "base")
    adapter = save(adapter_on(base), tmp_path / "adapter")
    as_pickle(adapter, mark, "adapter_model.safetensors", "adapter_model.bin")
    for work in (lambda: load_for_generation(str(adapter)), lambda: merge_adapter(str(adapter), str(tmp_path / "m"))):
        assert "pickled weights are not loaded" in refusal(work)
    assert not mark.exists()


def test_a_pickle_beside_safetensors_stays_shut(model, mark):
    (model / "pytorch_model.bin").write_bytes(pickle.dumps(Evil(mark)))
    for entry in ENTRIES.values():
        entry(model)
    assert not mark.exists()


def test_a_configuration_cannot_name_other_weights(model, mark):
    (model / "other.bin").write_bytes(pickle.dumps(Evil(mark)))
    edit(model / "config.json", transformers_weights="other.bin")
    assert "names weights that are not safetensors" in refusal(lambda: talked_to(model))
    edit(model / "config.json", transformers_weights="../other/model.safetensors")
    assert "outside the model's folder" in refusal(lambda: talked_to(model))
    assert not mark.exists()


def sharded(folder: Path, shards: dict[str, str]) -> Path:
    """Rewrite `folder` as a model of two shards, of which some names are others in the index."""
    weights = load_file(folder / "model.safetensors")
    keys = sorted(weights)
    (folder / "model.safetensors").unlink()
    weight_map = {}
    for name, part in (("one.safetensors", keys[::2]), ("two.safetensors", keys[1::2])):
        save_file({key: weights[key] for key in part}, folder / name, metadata={"format": "pt"})
        weight_map |= {key: shards.get(name, name) for key in part}
    index = {"metadata": {"total_size": 0}, "weight_map": weight_map}
    (folder / "model.safetensors.index.json").write_text(json.dumps(index))
    return folder


@pytest.mark.parametrize(
    "named", ["two.bin", "../two.safetensors", "/tmp/two.safetensors", "sub/../../two.safetensors"]
)
def test_an_index_names_only_safetensors_of_its_own_folder(model, mark, named):
    sharded(model, {"two.safetensors": named})
    (model / "two.bin").write_bytes(pickle.dumps(Evil(mark)))
    shutil.copy(model / "two.safetensors", model.parent / "two.safetensors")
    assert "which is no safetensors file of this folder" in refusal(lambda: talked_to(model))
    assert not mark.exists()


def test_a_model_in_shards_loads_and_a_shard_that_is_missing_is_named(model):
    talked_to(sharded(model, {}))
    (model / "two.safetensors").unlink()
    assert "has no two.safetensors" in refusal(lambda: talked_to(model))


def own_code(folder: Path, mark: Path, **config: Any) -> Path:
    """A folder with a model of its own kind, whose code would make a file."""
    code = f"from pathlib import Path\nPath({str(mark)!r}).touch()\nclass Own: ...\n"
    (folder / "own.py").write_text(code)
    names = ("AutoConfig", "AutoModelForCausalLM", "AutoModelForSequenceClassification")
    edit(folder / "config.json", auto_map=dict.fromkeys(names, "own.Own"), **config)
    edit(folder / "tokenizer_config.json", auto_map={"AutoTokenizer": ["own.Own", "own.Own"]})
    return folder


@pytest.mark.parametrize("entry", ENTRIES)
def test_a_model_that_needs_its_own_code_is_refused_without_a_question(model, mark, entry, monkeypatch):
    monkeypatch.setattr("builtins.input", lambda text: "y")
    own_code(model, mark, model_type="own_kind")
    said = refusal(lambda: ENTRIES[entry](model))
    assert "is a model of the kind 'own_kind', which only code of its repository can load" in said
    assert not mark.exists()


def test_code_for_a_task_that_a_known_model_does_not_have_is_not_run(model, mark, monkeypatch):
    monkeypatch.setattr("builtins.input", lambda text: "y")
    own_code(model, mark, model_type="t5", vocab_size=61, pad_token_id=0, eos_token_id=2, bos_token_id=1)
    assert "is a t5, for which transformers has no causal language model" in refusal(lambda: talked_to(model))
    assert not mark.exists()


def test_code_beside_a_model_that_transformers_knows_is_not_run(tmp_path, mark, monkeypatch):
    monkeypatch.setattr("builtins.input", lambda text: "y")
    folder = own_code(saved_backbone(tmp_path / "llama", "llama"), mark)
    for entry in ENTRIES.values():
        entry(folder)
    load_tokenizer(ModelSection(path=str(folder)))
    assert not mark.exists()


@pytest.mark.parametrize(
    "changes",
    [
        {"attn_implementation": "somebody/kernel"},
        {"_attn_implementation": "somebody/kernel@main:forward"},
        {"_attn_implementation_internal": "somebody/kernel"},
        {"attn_implementation": {"text_config": "somebody/kernel"}},
        {"text_config": {"attn_implementation": "somebody/kernel"}},
        {"experts_implementation": "somebody/kernel"},
        {"trust_remote_code": True},
        {"text_config": {"inner": [{"trust_remote_code": True}]}},
    ],
)
def test_a_configuration_cannot_ask_for_code(model, changes):
    edit(model / "config.json", **changes)
    for entry in ENTRIES.values():
        said = refusal(lambda entry=entry: entry(model))
        assert "code from a model repository is never run" in said
        assert "config.json" in said
        assert said.endswith("[HF507]")


def test_a_configuration_that_names_an_attention_of_torch_is_fine(model):
    edit(model / "config.json", attn_implementation="sdpa", trust_remote_code=False)
    for entry in ENTRIES.values():
        entry(model)


@pytest.mark.parametrize(
    ("file", "key"),
    [("tokenizer_config.json", "vocab_file"), ("tokenizer_config.json", "merges_file"), ("config.json", "weights_dir")],
)
@pytest.mark.parametrize("place", ["/etc/passwd", "../secret.txt", "a/../../secret.txt", "~/secret.txt", "file:///x"])
def test_a_path_out_of_the_folder_is_refused_by_file_and_key(model, file, key, place):
    edit(model / file, **{key: place})
    said = refusal(lambda: talked_to(model))
    assert said.startswith(f"{model / file}: {key}: names {place!r}, which is outside the model's folder")
    assert said.endswith("[HF508]")


def test_paths_that_savers_leave_behind_are_passed_over_and_not_read(model, tmp_path):
    other = tmp_path / "other.json"
    other.write_text("{ this would be a mistake to read")
    left = {"tokenizer_file": str(other), "special_tokens_map_file": str(other), "name_or_path": "/home/other/model"}
    edit(model / "tokenizer_config.json", **left)
    edit(model / "config.json", _name_or_path="/home/other/model")
    assert load_tokenizer(ModelSection(path=str(model))).get_vocab() == TOKENIZER.get_vocab()
    talked_to(model)


@pytest.mark.parametrize("file", ["tokenizer.json", "model.safetensors", "config.json", "chat_template.jinja"])
def test_a_link_out_of_the_folder_is_refused(model, tmp_path, file):
    outside = tmp_path / f"outside-{file}"
    (model / file).rename(outside) if (model / file).exists() else outside.write_text("{{ messages }}")
    (model / file).symlink_to(outside)
    for work in (lambda: talked_to(model), lambda: load_tokenizer(ModelSection(path=str(model)))):
        assert f"{model / file}: is a link to a file outside the model's folder" in refusal(work)


def test_links_inside_a_folder_to_a_folder_and_in_the_hubs_cache_are_fine(model, tmp_path):
    (model / "config.json").rename(model / "real.json")
    (model / "config.json").symlink_to("real.json")
    talked_to(model)
    (tmp_path / "link").symlink_to(model, target_is_directory=True)
    talked_to(tmp_path / "link")
    cache = tmp_path / "models--someone--model"
    (cache / "blobs").mkdir(parents=True)
    snapshot = cache / "snapshots" / ("0" * 40)
    snapshot.mkdir(parents=True)
    for path in model.iterdir():
        shutil.copy(path, cache / "blobs" / path.name)
        (snapshot / path.name).symlink_to(os.path.join("..", "..", "blobs", path.name))
    talked_to(snapshot)


def test_all_that_is_wrong_with_a_folder_is_said_together(model):
    edit(model / "config.json", trust_remote_code=True, attn_implementation="a/b")
    edit(model / "tokenizer_config.json", vocab_file="/etc/passwd")
    assert refusal(lambda: talked_to(model)).endswith("3 problems")


@pytest.mark.parametrize("length", [0, 7, 100, -1])
@pytest.mark.parametrize("entry", ENTRIES)
def test_weights_that_are_cut_short_are_named(model, entry, length):
    content = (model / "model.safetensors").read_bytes()
    (model / "model.safetensors").write_bytes(content[:length])
    said = refusal(lambda: ENTRIES[entry](model))
    assert said.startswith(f"{model / 'model.safetensors'}: model.safetensors is damaged or cut short")


def test_an_adapter_that_is_cut_short_is_named(tmp_path):
    base = saved_base(tmp_path / "base")
    adapter = save(adapter_on(base), tmp_path / "adapter")
    content = (adapter / "adapter_model.safetensors").read_bytes()
    (adapter / "adapter_model.safetensors").write_bytes(content[:-4])
    for work in (lambda: load_adapter(str(adapter)), lambda: merge_adapter(str(adapter), str(tmp_path / "merged"))):
        assert "adapter_model.safetensors is damaged or cut short" in refusal(work)


def test_an_honest_adapter_still_loads_over_its_base(tmp_path):
    base = saved_base(tmp_path / "base")
    adapter = save(train(adapter_on(base)), tmp_path / "adapter")
    loaded, _ = load_adapter(str(adapter))
    assert isinstance(loaded, PeftModel)


def test_an_old_model_of_the_hub_loads_as_transformers_loads_it(tmp_path):
    config = GPT2Config(vocab_size=len(TOKENIZER), n_embd=16, n_layer=1, n_head=2, n_positions=32, bos_token_id=1)
    config.eos_token_id, config.pad_token_id = 2, 0
    GPT2LMHeadModel(config).save_pretrained(tmp_path / "gpt2")
    TOKENIZER.save_pretrained(tmp_path / "gpt2")
    edit(tmp_path / "gpt2" / "config.json", torch_dtype="float32", use_cache=True, task_specific_params={"a": {"b": 1}})
    ours, _ = load_for_generation(str(tmp_path / "gpt2"))
    theirs = AutoModelForCausalLM.from_pretrained(tmp_path / "gpt2")
    assert all(torch.equal(a, b) for a, b in zip(ours.parameters(), theirs.parameters(), strict=True))
    assert AutoConfig.from_pretrained(tmp_path / "gpt2").model_type == "gpt2"
