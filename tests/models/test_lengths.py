"""How long a row may be: what the run file asks for, as far as model and tokenizer take it."""

from __future__ import annotations

import pytest
from transformers import LlamaConfig
from tuned_adapters import TOKENIZER

from hf_finetune.errors import ConfigError
from hf_finetune.models.lengths import DEFAULT_ROW_LENGTH, row_length


@pytest.mark.parametrize(
    ("train", "positions", "length"),
    [({}, 64, 64), ({}, 10**6, DEFAULT_ROW_LENGTH), ({"max_length": None}, 64, 64), ({"max_length": 32}, 64, 32)],
)
def test_a_row_has_the_tokens_that_are_asked_for_and_that_the_model_takes(train, positions, length):
    assert row_length(train, LlamaConfig(max_position_embeddings=positions), TOKENIZER) == length


def test_more_than_the_model_takes_is_refused():
    with pytest.raises(
        ConfigError, match=r"train.max_length: 65 tokens are too long; the model takes 64; set a number"
    ):
        row_length({"max_length": 65}, LlamaConfig(max_position_embeddings=64), TOKENIZER)
