"""Sampling and weights for rare labels, against their definitions and scikit-learn's balanced weights."""

from __future__ import annotations

import logging

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from sklearn.utils.class_weight import compute_class_weight

from hf_finetune.data.labels.balance import compute_class_weights, select_balanced_rows
from hf_finetune.errors import ConfigError
from hf_finetune.label_set import Labels

NUMBER = Labels(("value",), "number")


def labels_of(count, kind="single"):
    names = tuple(f"label{number}" for number in range(count))
    return Labels(names, kind, names)


@st.composite
def columns(draw):
    """Class numbers in which each class occurs."""
    counts = draw(st.lists(st.integers(1, 30), min_size=2, max_size=6))
    rows = np.repeat(np.arange(len(counts)), counts)
    return len(counts), np.random.default_rng(draw(st.integers(0, 9))).permutation(rows)


@given(columns(), st.integers(0, 5))
def test_undersampling_takes_each_row_once_and_as_many_of_each_label_as_the_rarest_has(column, seed):
    count, encoded = column
    rows = select_balanced_rows(labels_of(count), encoded, "undersample", seed)
    assert rows.dtype == np.int64
    assert np.all(np.diff(rows) > 0)
    assert set(np.bincount(encoded[rows], minlength=count)) == {np.bincount(encoded).min()}


@given(columns(), st.integers(0, 5))
def test_oversampling_takes_every_row_and_repeats_none_more_than_once_more_than_another_of_its_label(column, seed):
    count, encoded = column
    rows = select_balanced_rows(labels_of(count), encoded, "oversample", seed)
    assert set(np.bincount(encoded[rows])) == {np.bincount(encoded).max()}
    times = np.bincount(rows, minlength=len(encoded))
    for label in range(count):
        assert times[encoded == label].min() >= 1
        assert np.ptp(times[encoded == label]) <= 1


def test_the_choice_depends_on_the_seed_alone():
    encoded = np.array([0] * 30 + [1] * 8)
    for balance in ("undersample", "oversample"):
        one, again, other = (select_balanced_rows(labels_of(2), encoded, balance, seed).tolist() for seed in (3, 3, 4))
        assert one == again != other


@pytest.mark.parametrize("balance", ["none", "weights", "focal", {"label0": 1.0, "label1": 2.0}])
def test_what_does_not_sample_leaves_every_row_in_place(balance):
    for labels, encoded in ((labels_of(2), np.array([0, 1, 1])), (labels_of(2, "multi"), np.eye(2, dtype=np.float32))):
        assert select_balanced_rows(labels, encoded, balance, 0).tolist() == list(range(len(encoded)))
    assert select_balanced_rows(NUMBER, np.array([1.0, 2.0]), "none", 0).tolist() == [0, 1]


@pytest.mark.parametrize("balance", ["undersample", "oversample"])
def test_rows_of_several_labels_are_not_sampled(balance):
    with pytest.raises(ConfigError, match=rf"data.balance: {balance} needs rows of one label each.*weights or focal"):
        select_balanced_rows(labels_of(2, "multi"), np.eye(2), balance, 0)


@given(columns())
def test_weights_are_those_of_scikit_learn_and_one_on_average(column):
    count, encoded = column
    weights = compute_class_weights(labels_of(count), encoded, "weights")
    expected = compute_class_weight("balanced", classes=np.arange(count), y=encoded)
    assert weights.dtype == np.float32
    np.testing.assert_allclose(weights, expected, rtol=1e-6)
    assert np.isclose(weights[encoded].mean(), 1)


@given(columns(), st.lists(st.floats(0.01, 100), min_size=6, max_size=6))
def test_weights_by_name_keep_their_proportions_and_are_one_on_average(column, given_weights):
    count, encoded = column
    labels = labels_of(count)
    by_name = dict(zip(reversed(labels.names), given_weights, strict=False))
    weights = compute_class_weights(labels, encoded, by_name)
    asked = np.array([by_name[name] for name in labels.names])
    np.testing.assert_allclose(weights / weights[0], asked / asked[0], rtol=1e-5)
    assert np.isclose(weights[encoded].mean(), 1, rtol=1e-5)


def test_of_several_labels_presence_weighs_as_much_as_absence_in_the_loss():
    encoded = np.array([[1, 0, 1], [0, 0, 1], [0, 1, 1], [0, 1, 1]], dtype=np.float32)
    labels = labels_of(3, "multi")
    weights = compute_class_weights(labels, encoded, "weights")
    assert weights.tolist() == [3.0, 1.0, 0.25]  # a label of every row keeps a weight
    assert compute_class_weights(labels, encoded, {"label0": 2.0, "label1": 5.0, "label2": 1.0}).tolist() == [
        2.0,
        5.0,
        1.0,
    ]
    logits = torch.zeros(4, 2, requires_grad=True)
    targets = torch.tensor(encoded[:, :2])
    torch.nn.functional.binary_cross_entropy_with_logits(
        logits, targets, pos_weight=torch.tensor(weights[:2])
    ).backward()
    assert torch.allclose(logits.grad.sum(0), torch.zeros(2), atol=1e-7)


@pytest.mark.parametrize("balance", ["none", "focal", "undersample", "oversample"])
def test_no_weights_are_made_where_none_are_asked_for(balance):
    assert compute_class_weights(labels_of(2), np.array([0, 1, 1]), balance) is None
    assert compute_class_weights(NUMBER, np.array([1.0, 2.0]), "none") is None


def test_what_is_done_is_said_with_the_counts(caplog):
    with caplog.at_level(logging.INFO, "hf_finetune"):
        select_balanced_rows(labels_of(2), np.array([0, 0, 0, 1]), "oversample", 0)
        compute_class_weights(labels_of(2), np.array([0, 0, 0, 1]), "weights")
    assert "oversample: 3 training rows of each label, where there were label0 3, label1 1" in caplog.text
    assert "weights of the labels in the loss: label0 0.667, label1 2" in caplog.text
