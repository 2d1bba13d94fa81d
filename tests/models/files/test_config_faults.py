"""A configuration of which no model can be built, of Llama's kind: the key at fault, not what a library ran into."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import pytest
from transformers import LlamaConfig, LlamaForCausalLM

from hf_finetune.config.sections import ModelSection
from hf_finetune.errors import ModelError
from hf_finetune.models.files import config_faults
from hf_finetune.models.loading import load_language_model

NONE = "no model can be built with it"
WIDTHS = {"hidden_size": 16, "intermediate_size": 16, "vocab_size": 32, "pad_token_id": None}
LLAMA_3 = {"rope_type": "llama3", "rope_theta": 1.0, "original_max_position_embeddings": 64}


@pytest.fixture(scope="module")
def llama(tmp_path_factory) -> Path:
    folder = tmp_path_factory.mktemp("llama")
    settings = LlamaConfig(**WIDTHS, num_hidden_layers=1, num_attention_heads=4, num_key_value_heads=4)
    LlamaForCausalLM(settings).save_pretrained(folder)
    return folder


def refuse(llama: Path, folder: Path, values: dict) -> str:
    shutil.copytree(llama, folder)
    config = json.loads((folder / "config.json").read_text())
    (folder / "config.json").write_text(json.dumps(config | values))
    with pytest.raises(ModelError) as refused:
        load_language_model(ModelSection(path=str(folder)))
    return str(refused.value)


FAULTS = {
    "a name": ({"hidden_act": "os.system"}, f"hidden_act: 'os.system' cannot be used: {NONE}"),
    "a zero": ({"num_key_value_heads": 0}, f"num_key_value_heads: 0 cannot be used: {NONE}"),
    "an id": ({"pad_token_id": 10**6}, f"pad_token_id: 1000000 cannot be used: {NONE}"),
    "a type": ({"use_cache": "x"}, "use_cache: 'x' cannot be used (Field 'use_cache' expected bool, got str"),
    "a dtype": ({"dtype": "evil"}, f"dtype: 'evil' cannot be used: {NONE}"),
    "a name inside": (
        {"rope_parameters": {"rope_type": "../../\x1b[31m\nx", "rope_theta": 1.0}},
        f"rope_parameters.rope_type: '../../\\x1b[31m\\nx' cannot be used: {NONE}",
    ),
    "a part left out": ({"rope_parameters": LLAMA_3}, f"rope_parameters: a section of keys cannot be used: {NONE}"),
    "several": ({"hidden_act": "x", "num_key_value_heads": 0}, "no model can be built of it;"),
}


@pytest.mark.parametrize("case", FAULTS)
def test_the_key_at_fault_is_named(llama, tmp_path, case):
    values, message = FAULTS[case]
    said = refuse(llama, tmp_path / "model", values)
    assert said.startswith(f"{tmp_path}/model/config.json: {message}")


def test_the_key_is_looked_for_within_a_bound_of_time(llama, tmp_path, monkeypatch):
    monkeypatch.setattr(config_faults, "SECONDS", -1.0)
    assert "config.json: no model can be built of it;" in refuse(llama, tmp_path / "model", {"hidden_act": "x"})
