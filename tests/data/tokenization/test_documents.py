from __future__ import annotations

import logging

import numpy as np
import pytest
import torch
from datasets import Dataset
from hypothesis import given, settings
from hypothesis import strategies as st
from transformers import PreTrainedTokenizerFast

from hf_finetune.data.tokenization.documents import IGNORE_INDEX, BlockCollator, group_into_blocks, pack_splits
from hf_finetune.data.tokenization.text import encode_documents
from hf_finetune.data.tokenization.windows import cut_into_windows
from hf_finetune.errors import DataError
from hf_finetune.models.scratch_gpt.configuration_scratch_gpt import ScratchGPTConfig
from hf_finetune.models.scratch_gpt.modeling_scratch_gpt import ScratchGPTForCausalLM
from hf_finetune.models.tokenizer_training import train_tokenizer

TOKENIZER = train_tokenizer("char", ["abcdefgh <|eos|>"], None)


def documents_in_tokens(texts: list[str]) -> list[list[int]]:
    """The oracle: one character, one token."""
    vocabulary = TOKENIZER.get_vocab()
    ids = [[vocabulary[character] for character in text] for text in texts if text.strip()]
    return [[TOKENIZER.bos_token_id, *document, TOKENIZER.eos_token_id] for document in ids]


def pack(texts: list[str], block_size: int, *, isolate: bool):
    return group_into_blocks(Dataset.from_dict({"text": texts}), TOKENIZER, block_size, isolate=isolate)


texts_with_something = st.lists(st.text("abcdefgh ", max_size=30), min_size=1, max_size=12).filter(
    lambda texts: any(text.strip() for text in texts)
)


@settings(max_examples=80, deadline=None, derandomize=True)
@given(texts=texts_with_something, block_size=st.integers(2, 17), isolate=st.booleans())
def test_every_token_is_kept_and_predicted_exactly_once(texts, block_size, isolate):
    dataset, facts = pack(texts, block_size, isolate=isolate)
    documents = documents_in_tokens(texts)
    stream = [token for document in documents for token in document]
    # Undo the overlap of one token.
    rows = [row["input_ids"] for row in dataset]
    unpacked = rows[0] + [token for row in rows[1:] for token in row[1:]]
    assert unpacked == stream
    assert [len(row) for row in rows[:-1]] == [block_size] * (len(rows) - 1)
    assert len(rows[-1]) == block_size - facts.padding > 0

    trained = [label for row in dataset for label in row["labels"] if label != IGNORE_INDEX]
    expected = [token for document in documents for token in document[1:]] if isolate else stream[1:]
    assert trained == expected
    assert facts.trained_tokens == len(expected)
    assert facts.tokens == len(stream)
    assert facts.rows == len(texts)
    assert facts.dropped == len(texts) - len(documents)
    assert facts.text_bytes == sum(len(text) for text in texts if text.strip())
    assert facts.blocks == len(dataset)


@settings(max_examples=40, deadline=None, derandomize=True)
@given(texts=texts_with_something, block_size=st.integers(2, 17))
def test_positions_restart_where_a_document_does(texts, block_size):
    dataset, _ = pack(texts, block_size, isolate=True)
    for row in dataset:
        position = -1
        for token, found in zip(row["input_ids"], row["position_ids"], strict=True):
            position = 0 if token == TOKENIZER.bos_token_id else position + 1
            assert found == position


def test_training_documents_are_packed_the_others_stand_alone_and_each_split_is_said_in_a_line(caplog):
    splits = {name: Dataset.from_dict({"text": ["abc", " "]}) for name in ("train", "test")}
    with caplog.at_level(logging.INFO, logger="hf_finetune"):
        blocks, facts = pack_splits(splits, TOKENIZER, 4, isolate=False)
    assert list(blocks) == list(facts) == ["train", "test"]
    line = "2 documents (1 without text left out), 5 tokens, 4 of them predicted, "
    assert f"train: {line}in 2 blocks of 4 (25.0% padding)" in caplog.text
    assert f"test: {line}each document by itself, in 2 windows of at most 4" in caplog.text


def test_a_label_is_the_token_at_its_place():
    dataset, _ = pack(["abc", "defgh"], 6, isolate=False)
    for row in dataset:
        for token, label in zip(row["input_ids"], row["labels"], strict=True):
            assert label in (token, IGNORE_INDEX)


def test_the_end_token_is_learned():
    dataset, _ = pack(["abc", "de"], 4, isolate=False)
    labels = [label for row in dataset for label in row["labels"]]
    assert labels.count(TOKENIZER.eos_token_id) == 2


def test_text_that_spells_a_special_token_stays_text():
    (ids,) = encode_documents(TOKENIZER, ["a<|eos|>b"])
    assert TOKENIZER.eos_token_id not in ids
    assert TOKENIZER.decode(ids) == "a<|eos|>b"


def test_documents_without_text_are_refused_with_their_number():
    blank = ["", "  \n"]
    with pytest.raises(DataError, match="none of 2 documents has any text"):
        pack(blank, 8, isolate=False)
    with pytest.raises(DataError, match="none of 2 documents has any text"):
        cut_into_windows(Dataset.from_dict({"text": blank}), TOKENIZER, 8)


def test_packing_is_found_again_and_differs_by_settings():
    first, facts = pack(["abcdefgh"], 4, isolate=False)
    again, facts_again = pack(["abcdefgh"], 4, isolate=False)
    other, _ = pack(["abcdefgh"], 5, isolate=False)
    assert first.cache_files == again.cache_files
    assert facts == facts_again
    assert other.cache_files != first.cache_files


def test_blocks_are_stacked_as_int64():
    dataset, _ = pack(["abcdefgh"], 4, isolate=True)
    batch = BlockCollator()([dataset[0], dataset[1]])
    assert set(batch) == {"input_ids", "labels", "position_ids"}
    assert all(value.shape == (2, 4) and value.dtype == torch.int64 for value in batch.values())
    assert np.array_equal(batch["input_ids"][1], dataset[1]["input_ids"])


def test_a_tokenizer_without_bos_joins_documents_by_end_tokens_only():
    tokenizer = PreTrainedTokenizerFast(
        tokenizer_object=TOKENIZER.backend_tokenizer, eos_token="<|eos|>", pad_token="<|pad|>"
    )
    dataset, facts = group_into_blocks(Dataset.from_dict({"text": ["ab", "cd"]}), tokenizer, 8, isolate=False)
    assert tokenizer.decode(dataset[0]["input_ids"][: facts.tokens]) == "ab<|eos|>cd<|eos|>"


@pytest.mark.parametrize("attention", ["eager", "sdpa"])
@pytest.mark.parametrize("family", ["modern", "gpt2"])
def test_isolated_documents_have_the_loss_of_each_document_alone(attention, family):
    texts = ["abc", "defgh abc", "h", "bad cafe"]
    dataset, facts = pack(texts, 64, isolate=True)
    assert facts.blocks == 1
    torch.manual_seed(0)
    config = ScratchGPTConfig(
        vocab_size=len(TOKENIZER),
        family=family,
        hidden_size=32,
        num_hidden_layers=2,
        num_attention_heads=2,
        max_position_embeddings=64,
    )
    model = ScratchGPTForCausalLM._from_config(config, attn_implementation=attention).eval()
    with torch.no_grad():
        for parameter in model.parameters():  # a fresh model's branches are silent, and would leak nothing
            parameter.add_(torch.randn_like(parameter), alpha=0.1)
        packed = model(**BlockCollator()([dataset[0]])).loss * facts.trained_tokens
        alone = sum(
            model(input_ids=torch.tensor([ids]), labels=torch.tensor([ids])).loss * (len(ids) - 1)
            for ids in documents_in_tokens(texts)
        )
    torch.testing.assert_close(packed, alone, rtol=1e-5, atol=0)
