"""A model's folder that is looked at as a whole: each fault by its file and key, before anything is built."""

from __future__ import annotations

import json
import os
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from bounded_runs import run_bounded
from chat_models import parrot, talking_tokenizer
from safetensors.numpy import save_file

from hf_finetune.config.model_files import tokenizer
from hf_finetune.config.model_files.description import find_faults
from hf_finetune.config.sections import ModelSection
from hf_finetune.errors import ModelError
from hf_finetune.models import load_causal_lm, load_config
from hf_finetune.models.files import held

NOBODY = 65534


@pytest.fixture
def folder(tmp_path) -> Path:
    tokenizer = talking_tokenizer()
    parrot(tokenizer, {"a": "b"}).save_pretrained(tmp_path / "model")
    tokenizer.save_pretrained(tmp_path / "model")
    return tmp_path / "model"


def put(folder: Path, file: str, **values: Any) -> None:
    path = folder / file
    path.write_text(json.dumps((json.loads(path.read_text()) if path.exists() else {}) | values))


# 30 times 40: a hundred thousand times ten thousand took a minute, and then the memory.
FRAME = {
    "single": [{"SpecialToken": {"id": "x", "type_id": 0}}] * 30,
    "pair": [],
    "special_tokens": {"x": {"id": "x", "ids": [1] * 40, "tokens": ["x"] * 40}},
}
FAULTS = {
    "a part of the configuration": ("config.json", {"text_config": {"hidden_size": -1}}, "text_config.hidden_size: -1"),
    "experts": ("config.json", {"num_local_experts": 10**7}, "num_local_experts: 10,000,000 experts are more than any"),
    "ends without end": ("generation_config.json", {"eos_token_id": [1] * 1_001}, "eos_token_id"),
    "words without end": ("generation_config.json", {"bad_words_ids": [[5]] * 10_001}, "bad_words_ids"),
    "labels without a head": (
        "config.json",
        {"id2label": {str(n): "x" for n in range(1_001)}},
        "id2label: 1,001 labels",
    ),
    "labels of an adapter": (
        "base_model.json",
        {"name_or_path": "x", "classifier": {"id2label": {str(n): "x" for n in range(65_537)}}},
        "classifier.id2label: 65,537 labels are more than any model has",
    ),
    "keys without end": ("config.json", {f"k{n}": 1 for n in range(10_001)}, "has 10,"),
    "keys inside": ("adapter_config.json", {"a": [{f"k{n}": 1 for n in range(10_001)}]}, "a: has 10,001 keys"),
    "values without end": ("config.json", {"a": [[1] * 100_001] * 2}, "has more than 200,000 values"),
    "modules without end": (
        "adapter_config.json",
        {"target_modules": ["m"] * 5_001},
        "target_modules: a list cannot be",
    ),
    "added without end": (
        "tokenizer.json",
        {"added_tokens": [{}] * 3_001},
        "added_tokens: 3,001 added tokens, and the model has",
    ),
    "a token without end": (
        "tokenizer.json",
        {"added_tokens": [{"content": "a" * 4_097}]},
        "added_tokens[0].content: a token of 4,097 characters is longer than any of a model (at most 4,096)",
    ),
    "a piece without end": (
        "tokenizer.json",
        {"model": {"type": "BPE", "vocab": {"a" * 4_097: 0}, "merges": []}},
        "model.vocab: a token of 4,097 characters",
    ),
    "a piece of a Unigram without end": (
        "tokenizer.json",
        {"model": {"type": "Unigram", "vocab": [["a" * 4_097, -1.5]]}},
        "model.vocab: a token of 4,097 characters",
    ),
    "merges without end": (
        "tokenizer.json",
        {"model": {"type": "BPE", "vocab": {"a": 0, "b": 1, "ab": 2}, "merges": [["a", "b"]] * 5}},
        "model.merges: 5 merges are more than 3 pieces can be made by (at most 4)",
    ),
    "an end without end": (
        "tokenizer_config.json",
        {"eos_token": "a" * 4_097},
        "eos_token: ",
    ),
    "a token of another file": (
        "special_tokens_map.json",
        {"eos_token": {"content": "a" * 4_097}},
        "eos_token.content: ",
    ),
    "frames without end": (
        "tokenizer.json",
        {"post_processor": {"type": "Sequence", "processors": [{"type": "TemplateProcessing", **FRAME}]}},
        "post_processor: puts 1,200 special tokens around texts",
    ),
    "a base without a name": ("base_model.json", {"revision": None}, "name_or_path: is missing"),
}


NUMBERS = {
    "rope_theta": [0, -1, 1e300],
    "norm_eps": [-1.0],
    "rms_norm_eps": [2],
    "layer_norm_epsilon": ["x"],
    "initializer_range": [1e300, -1],
    "attention_dropout": [2],
    "rope_parameters": [{"rope_type": "yarn", "factor": -1}, {"full_attention": {"rope_theta": 0}}],
    "text_config": [{"rope_theta": 0}],
}
OF_GENERATION = {"temperature": [-1], "repetition_penalty": [0], "top_p": [1.5], "length_penalty": [1e300]}


@pytest.mark.parametrize(("file", "numbers"), [("config.json", NUMBERS), ("generation_config.json", OF_GENERATION)])
def test_numbers_of_which_nothing_can_be_computed_are_all_said_at_once(folder, file, numbers):
    for turn in range(3):
        values = {key: each[turn] for key, each in numbers.items() if turn < len(each)}
        put(folder, file, **values)
        found = [str(each.key).split(".")[0] for each in find_faults(folder, "m") if "cannot be used" in each.what]
        assert {*values} <= {*found}
        put(folder, file, **dict.fromkeys(values))
    assert not [each for each in find_faults(folder, "m") if "cannot be used" in each.what]


def test_numbers_of_published_models_are_taken(folder):
    put(folder, "config.json", rope_theta=46_000_000_000, rms_norm_eps=1e-06, attention_dropout=0, initializer_range=1)
    put(folder, "config.json", rope_scaling={"factor": 32.0, "low_freq_factor": 1, "short_factor": [1.0, 1.25]})
    put(folder, "generation_config.json", temperature=0.6, top_p=1, repetition_penalty=1, top_k=-1)
    assert find_faults(folder, "m") == []


@pytest.mark.parametrize("case", FAULTS)
def test_a_fault_is_named_by_file_and_key(folder, case):
    file, values, message = FAULTS[case]
    put(folder, file, **values)
    faults = find_faults(folder, "m")
    assert any(str(each).startswith(f"m/{file}: {message}") for each in faults)
    assert all(each.code for each in faults)


def test_a_link_to_nothing_is_named(folder):
    (folder / "vocab.json").symlink_to("gone.json")
    [problem] = find_faults(folder, "m")
    assert str(problem).startswith("m/vocab.json: is a link that leads to nothing")


@pytest.mark.parametrize("content", [b"", b"{", b'{"a": "\xff"}', b"[]"])
def test_a_file_that_was_cut_off_is_named(folder, content):
    (folder / "tokenizer.json").write_bytes(content)
    [problem] = find_faults(folder, "m")
    said = "is empty" if not content else "is damaged: it holds no JSON object"
    assert str(problem).startswith(f"m/tokenizer.json: {said}")


def test_a_vocabulary_without_end_is_named(folder, monkeypatch):
    monkeypatch.setattr(tokenizer, "LARGEST_VOCABULARY", 3)
    put(folder, "tokenizer.json", model={"type": "BPE", "vocab": dict.fromkeys("abcd", 0)})
    assert "m/tokenizer.json: model.vocab: 4 pieces, and no model has more than 3" in "".join(
        map(str, find_faults(folder, "m"))
    )


def test_a_tokenizer_of_several_files_is_looked_at_as_one_file_is(folder):
    (folder / "tokenizer.json").unlink()
    put(folder, "vocab.json", a=0, b=1, ab=2)
    put(folder, "added_tokens.json", **{"c" * 4_097: 3})
    (folder / "merges.txt").write_text("a b\n" * 5)
    found = [str(each) for each in find_faults(folder, "m")]
    assert [each.partition(";")[0] for each in found] == [
        "m/vocab.json: 5 merges are more than 3 pieces can be made by (at most 4)",
        "m/added_tokens.json: a token of 4,097 characters is longer than any of a model (at most 4,096)",
    ]


@pytest.mark.parametrize("name", ["chat_template.jinja", "additional_chat_templates/tools.jinja"])
def test_a_template_that_is_no_text_is_named(folder, name):
    (folder / name).parent.mkdir(exist_ok=True)
    (folder / name).write_bytes(b"\xff{{ messages }}")
    [problem] = find_faults(folder, "m")
    assert str(problem) == f"m/{name}: is not UTF-8; save it as UTF-8 [HF003]"


def test_weights_without_numbers_are_named(folder):
    """Two hundred thousand of them took transformers 25 seconds, from a header of 15 MB."""
    save_file({f"w{number}": np.zeros(0, np.float32) for number in range(10_001)}, folder / "model.safetensors")
    [problem] = find_faults(folder, "m")
    assert str(problem).startswith("m/model.safetensors: has 10,001 weights, and hardly a number in each")


def test_weights_of_an_adapter_that_are_whole_numbers_are_named(folder):
    put(folder, "adapter_config.json", peft_type="LORA", base_model_name_or_path="base", r=1)
    weights = {"x.lora_A.weight": np.ones((1, 4), np.float32), "x.lora_B.weight": np.ones((4, 1), np.int32)}
    save_file(weights, folder / "adapter_model.safetensors")
    [problem] = [each for each in find_faults(folder, "m") if "whole numbers" in each.what]
    assert str(problem).startswith("m/adapter_model.safetensors: 'x.lora_B.weight' has whole numbers (I32), and")


def test_weights_that_are_quantized_may_be_said_to_be(folder):
    put(folder, "config.json", quantization_config={"quant_method": "bitsandbytes", "load_in_8bit": True})
    [problem] = find_faults(folder, "m")
    assert problem.key == "quantization_config"
    save_file({"w": np.zeros((256, 64), np.int8), "SCB": np.zeros(256, np.float32)}, folder / "model.safetensors")
    assert find_faults(folder, "m") == []


def test_a_head_may_have_as_many_labels_as_rows(folder):
    put(folder, "config.json", id2label={str(n): "x" for n in range(2_000)}, num_labels=2_000)
    save_file({"score.weight": np.zeros((2_000, 4), np.float32)}, folder / "model.safetensors")
    assert find_faults(folder, "m") == []


def test_templates_without_end_are_named(folder):
    inside = folder / "additional_chat_templates"
    inside.mkdir()
    for number in range(101):
        (inside / f"{number}.jinja").touch()
    [problem] = find_faults(folder, "m")
    assert str(problem).startswith("m/additional_chat_templates: has 101 templates")


def test_a_number_that_nothing_reads_is_named(folder):
    (folder / "config.json").write_text('{"hidden_size": ' + "9" * 5_000 + "}")
    [problem] = find_faults(folder, "m")
    assert str(problem).startswith("m/config.json: has a number of thousands of digits")


def look_as_nobody(folder: Path) -> None:
    """Root may read whatever it wants: this process becomes another user, who may not."""
    os.chdir(folder)
    if os.geteuid() == 0:
        os.setgroups([])
        os.setuid(NOBODY)
    raise ModelError(find_faults(Path(), "m"))


def test_a_file_that_may_not_be_read_is_named(folder):
    folder.chmod(0o755)
    for path in folder.iterdir():
        path.chmod(0o644)
    (folder / "config.json").chmod(0)
    ended = run_bounded(partial(look_as_nobody, folder), seconds=10, mebibytes=1024)
    ended.note()
    assert ended.said == "m/config.json: cannot be read (Permission denied); check its permissions [HF002]"


@pytest.mark.parametrize(
    ("bound", "message"),
    [("MOST_NEW", "asks for [0-9,]+ parameters, and the files hold"), ("MOST_COMPUTED", "asks for tables of [0-9,]+")],
)
def test_a_model_that_is_more_than_its_files_hold_is_refused_before_it_takes_memory(
    folder, monkeypatch, bound, message
):
    put(folder, "config.json", num_hidden_layers=8)
    monkeypatch.setattr(held, bound, 0)  # sixteen million numbers more are what a large new head may have
    section = ModelSection(path=str(folder))
    with pytest.raises(ModelError, match=message):
        load_causal_lm(section, load_config(section, talking_tokenizer()), 8, bf16=False)
