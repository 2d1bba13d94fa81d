from __future__ import annotations

import json

import numpy as np
import pytest

from hf_finetune.config.sections import DataSection
from hf_finetune.data.labels.freeze import freeze_labels
from hf_finetune.data.splitting.splits import load_splits
from hf_finetune.data.tokenization.labelled import balance_classes, get_padded_width, tokenize_labelled
from hf_finetune.models.tokenizer_training import train_tokenizer

TRAIN = [
    {"text": "aaa", "label": "x"},
    {"text": "bb", "label": "y"},
    {"text": "ababab", "label": "x"},
    {"text": "b", "label": "x"},
    {"text": "baba", "label": "y"},
    {"text": "aab", "label": "x"},
]
VALIDATION = [{"text": "abababababab", "label": "y"}, {"text": "a b", "label": "x"}]


@pytest.fixture
def tokenizer():
    return train_tokenizer("char", ["ab "], None)


def load(folder, train=TRAIN, validation=VALIDATION, **settings):
    for name, rows in (("train", train), ("validation", validation)):
        (folder / f"{name}.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    files = {name: str(folder / f"{name}.jsonl") for name in ("train", "validation")}
    data = DataSection(**files, **settings)
    splits = load_splits(data, "labelled", 0)
    return data, splits, freeze_labels(splits, data)


def texts_of(tokenizer, rows):
    return [tokenizer.decode(ids) for ids in rows["input_ids"]]


def test_rows_keep_their_order_and_have_their_text_label_and_length(tmp_path, tokenizer):
    data, splits, labels = load(tmp_path)
    rows, facts = tokenize_labelled(splits, tokenizer, labels, data, None)
    assert texts_of(tokenizer, rows["train"]) == [row["text"] for row in TRAIN]
    assert [labels.names[number] for number in rows["train"]["labels"]] == [row["label"] for row in TRAIN]
    assert rows["train"]["length"][:] == [len(row["text"]) for row in TRAIN]
    assert facts["train"].tokens == facts["train"].trained_tokens == sum(len(row["text"]) for row in TRAIN)
    assert facts["train"].labels == {"x": 4, "y": 2}
    assert (facts["validation"].rows, facts["validation"].longest, facts["validation"].truncated) == (2, 12, 0)


def test_rows_longer_than_the_limit_are_cut_and_counted(tmp_path, tokenizer, caplog):
    data, splits, labels = load(tmp_path)
    rows, facts = tokenize_labelled(splits, tokenizer, labels, data, 4)
    assert texts_of(tokenizer, rows["train"])[2] == "abab"
    assert (facts["train"].truncated, facts["validation"].truncated) == (1, 1)
    assert tokenizer.model_max_length == 4
    assert "train: 1 row longer than 4 tokens was cut" in caplog.text


def test_longest_train_cuts_the_others_at_the_longest_training_row_and_pads_all_to_it(tmp_path, tokenizer):
    data, splits, labels = load(tmp_path, max_length="longest_train")
    rows, facts = tokenize_labelled(splits, tokenizer, labels, data, 100)
    assert (facts["train"].truncated, facts["validation"].truncated, facts["validation"].longest) == (0, 1, 6)
    assert texts_of(tokenizer, rows["validation"]) == ["ababab", "a b"]
    assert get_padded_width(data, facts) == tokenizer.model_max_length == 6
    assert get_padded_width(data.model_copy(update={"max_length": None}), facts) is None


def test_several_labels_are_a_number_each_and_numbers_stay_what_they_are(tmp_path, tokenizer):
    several = [{"text": "a", "label": ["x", "y"]}, {"text": "b", "label": ["y"]}, {"text": "ab", "label": ["x"]}]
    data, splits, labels = load(tmp_path, several, [{"text": "ba", "label": ["x"]}])
    rows, facts = tokenize_labelled(splits, tokenizer, labels, data, None)
    assert rows["train"]["labels"][:] == [[1.0, 1.0], [0.0, 1.0], [1.0, 0.0]]
    assert facts["train"].labels == {"x": 2, "y": 2}
    numbers = [{"text": "a", "label": 1.5}, {"text": "b", "label": -100}]
    data, splits, labels = load(tmp_path, numbers, [{"text": "ba", "label": 2}], task="regression")
    rows, facts = tokenize_labelled(splits, tokenizer, labels, data, None)
    assert rows["train"]["labels"][:] == [1.5, -100.0]
    assert facts["train"].labels == {}


def test_the_texts_of_a_pair_are_told_apart(tmp_path, tokenizer):
    pairs = [{"text": "a", "text_pair": "b", "label": row["label"]} for row in TRAIN]
    data, splits, labels = load(tmp_path, pairs, [{"text": "b", "text_pair": "a", "label": "x"}])
    rows, _ = tokenize_labelled(splits, tokenizer, labels, data, None)
    assert texts_of(tokenizer, rows["train"])[0] == f"a{tokenizer.eos_token}b"


def test_sampling_changes_the_training_rows_and_the_facts_about_them_alone(tmp_path, tokenizer):
    data, splits, labels = load(tmp_path)
    before, facts_before = tokenize_labelled(splits, tokenizer, labels, data, None)
    rows, facts, weights = balance_classes(before, facts_before, labels, "oversample", 0)
    assert np.bincount(rows["train"]["labels"][:]).tolist() == [4, 4]
    assert set(texts_of(tokenizer, rows["train"])) == {row["text"] for row in TRAIN}
    assert facts["train"].labels == {"x": 4, "y": 4}
    assert facts["train"].tokens == sum(rows["train"]["length"][:])
    assert rows["validation"] is before["validation"]
    assert weights is None


def test_weights_leave_the_rows_as_they_are(tmp_path, tokenizer):
    data, splits, labels = load(tmp_path)
    before, facts_before = tokenize_labelled(splits, tokenizer, labels, data, None)
    rows, facts, weights = balance_classes(before, facts_before, labels, "weights", 0)
    assert rows["train"] is before["train"]
    assert facts == facts_before
    assert weights.tolist() == pytest.approx([6 / (2 * 4), 6 / (2 * 2)])
