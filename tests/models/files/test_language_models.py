from __future__ import annotations

import json

import pytest
from transformers import BertConfig, T5Config, XLMConfig

from hf_finetune.errors import ModelError
from hf_finetune.models.files.language_models import check_language_model


def write(folder, config):
    folder.mkdir()
    values = config if isinstance(config, dict) else config.to_dict()
    (folder / "config.json").write_text(json.dumps(values))
    return str(folder)


@pytest.mark.parametrize(
    ("config", "words"),
    [
        (BertConfig(), r"is an encoder \(bert\), which sees the tokens that it would have to predict"),
        (XLMConfig(), r"is an encoder \(xlm\)"),
        (T5Config(), r"is an encoder-decoder \(t5\), which writes with a second stack"),
        ({"model_type": "vit"}, "is a vit, for which transformers has no causal language model"),
    ],
)
def test_what_cannot_write_is_refused_by_what_it_is(config, words, tmp_path):
    with pytest.raises(ModelError, match=words):
        check_language_model(write(tmp_path / "model", config), None)


@pytest.mark.parametrize(
    "config",
    # Decoders of these architectures; what is unknown or unreadable is said by those who load it.
    [BertConfig(is_decoder=True), XLMConfig(causal=True), {"model_type": "new"}, {}, ["bert"]],
)
def test_what_writes_or_is_unknown_passes(config, tmp_path):
    folder = tmp_path / "model"
    check_language_model(write(folder, {"x": 1}), None)
    (folder / "config.json").write_text(json.dumps(config if isinstance(config, dict | list) else config.to_dict()))
    check_language_model(str(folder), None)
    check_language_model(str(tmp_path / "nowhere"), None)
