"""The config.json of what was saved is the base's, key for key, but for what the run has asked for."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch
from models.scratch_models import save_chat_base
from transformers import BertConfig, BertForMaskedLM

from hf_finetune.release.merge import merge_adapter

ROOT = Path(__file__).resolve().parent.parent
ROWS = ROOT / "data_templates" / "user_assistant.jsonl"
QUICK = ("train.max_steps=1", "train.bf16=false", "eval.prompts=[]", "train.save_strategy=no")
QUICK += ("train.load_best_model_at_end=false",)
LABELLED = (f"data.train={ROOT / 'data_templates' / 'labelled.jsonl'}", "model.scratch=null", "model.tokenizer=null")
DOCUMENTS = (
    f"data={{train: {ROWS}, columns: {{text: assistant}}, format: text, validation_fraction: 0.2, block_size: 16}}"
)
RUNS = {
    "sft": ("sft", "eval.base=false"),
    "continued_pretraining": ("continued_pretraining", DOCUMENTS, "model.scratch=null", "model.tokenizer=null"),
    "lora": ("lora", "eval.base=false"),
    "classification": ("classification", *LABELLED),
}
# What a classifier is asked for, beside the architecture: which labels it has, and where a padded text ends.
OF_CLASSIFIERS = {"id2label", "label2id", "problem_type", "architectures"}


@pytest.fixture(scope="module", params=["decoder", "encoder"])
def base(request, tmp_path_factory) -> Path:
    folder = save_chat_base(tmp_path_factory.mktemp(request.param), ROWS)
    if request.param == "encoder":
        sizes = {"hidden_size": 32, "intermediate_size": 64, "num_hidden_layers": 1, "num_attention_heads": 2}
        vocab_size = json.loads((folder / "config.json").read_text())["vocab_size"]
        torch.manual_seed(0)
        BertForMaskedLM(BertConfig(vocab_size=vocab_size, **sizes)).save_pretrained(folder)
    config = json.loads((folder / "config.json").read_text())
    (folder / "config.json").write_text(json.dumps(config | {"a_key_of_theirs": {"x": [1, None]}}))
    return folder


def find_changes(base: Path, saved: Path) -> set[str]:
    before, after = (json.loads((folder / "config.json").read_text()) for folder in (base, saved))
    return {key for key in before.keys() | after.keys() if before.get(key) != after.get(key)}


@pytest.mark.parametrize("run", RUNS)
def test_nothing_is_changed_that_was_not_asked_for(run_recipe, base, run, tmp_path):
    config, *settings = RUNS[run]
    encoder = "maskedlm" in json.loads((base / "config.json").read_text())["architectures"][0].lower()
    if run != "classification" and encoder:
        pytest.skip("an encoder is trained as a classifier alone")
    run_recipe(config, *QUICK, f"model.path={base}", *settings)
    saved = tmp_path / "run"
    if run == "lora":
        merge_adapter(str(saved), str(tmp_path / "merged"))
        saved = tmp_path / "merged"
    assert find_changes(base, saved) - (OF_CLASSIFIERS if run == "classification" else set()) == set()
