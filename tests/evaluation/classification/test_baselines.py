"""What the two baselines say of easy, constant, wordless and many rows."""

from __future__ import annotations

import logging
import math

import numpy as np
import pytest
import sklearn.metrics as sk

from hf_finetune.config.sections import DataSection
from hf_finetune.data.labels.freeze import freeze_labels
from hf_finetune.data.splitting.splits import load_splits
from hf_finetune.evaluation.classification import baselines
from hf_finetune.evaluation.classification.baselines import add_baselines, score_baselines
from hf_finetune.label_set import Labels
from hf_finetune.metric_info import EVAL_LABEL_METRICS

SPAM = Labels(("ham", "spam"), "single", ("ham", "spam"))
TAGS = Labels(("art", "law", "old"), "multi", ("art", "law", "old"))
NUMBER = Labels(("value",), "number")
NAMES = {*EVAL_LABEL_METRICS, "log_loss"}


def some_texts(rows, seed=0):
    """Texts of five words out of twelve, as numbers and as text."""
    words = np.random.default_rng(seed).integers(12, size=(rows, 5))
    return words, [" ".join("abcdefghijkl"[word] for word in row) for row in words]


def spam(rows, seed=0):
    words, texts = some_texts(rows, seed)
    return texts, (words == 0).any(axis=1).astype(np.int64)


def test_a_word_that_decides_is_found_and_the_commonest_label_is_not_enough():
    test = spam(300, seed=1)
    found = score_baselines(*spam(600), {"validation": spam(100, seed=2), "test": test}, SPAM, seed=0)
    assert found.keys() == {"validation", "test"}
    majority, words = found["test"]["majority"], found["test"]["tfidf_logistic_regression"]
    assert majority.keys() == words.keys() == NAMES
    share = np.mean(test[1] == 0)
    assert majority["accuracy"] == pytest.approx(share)
    assert (majority["balanced_accuracy"], majority["matthews_correlation"], majority["roc_auc"]) == (0.5, 0, 0.5)
    trained = spam(600)[1].mean()
    expected = sk.log_loss(test[1], np.tile([1 - trained, trained], (300, 1)))
    assert majority["loss"] == majority["log_loss"] == pytest.approx(expected)
    assert words["accuracy"] > 0.97
    assert words["log_loss"] < majority["log_loss"] / 2
    assert all(isinstance(value, float) for each in (majority, words) for value in each.values())


def test_a_label_that_all_or_no_training_rows_have_is_predicted_as_it_was():
    words, texts = some_texts(200)
    given = np.stack([(words == 0).any(axis=1), np.zeros(200), np.ones(200)], axis=1).astype(np.float32)
    found = score_baselines(texts, given, {"test": (texts, given)}, TAGS, seed=0)["test"]
    assert found["tfidf_logistic_regression"]["accuracy"] > 0.9
    assert found["majority"].keys() == NAMES
    assert math.isfinite(found["tfidf_logistic_regression"]["log_loss"])


def test_numbers_are_compared_with_their_mean_and_with_ridge_regression():
    words, texts = some_texts(400)
    given = (words == 0).sum(axis=1).astype(np.float32)
    found = score_baselines(texts[:300], given[:300], {"test": (texts[300:], given[300:])}, NUMBER, seed=0)["test"]
    assert found.keys() == {"mean", "tfidf_ridge"}
    assert found["mean"].keys() == {"loss", "mae", "r2", "pearson"}
    assert found["mean"]["loss"] == pytest.approx(np.mean((given[300:] - given[:300].mean()) ** 2), rel=1e-5)
    assert math.isnan(found["mean"]["pearson"])
    assert found["tfidf_ridge"]["r2"] > 0.5


def test_texts_without_words_leave_the_commonest_label_alone(caplog):
    caplog.set_level(logging.INFO)
    given = np.array([0, 1, 0])
    found = score_baselines(["!", "?", ""], given, {"test": (["!", "a", "?"], given)}, SPAM, seed=0)
    assert found["test"].keys() == {"majority"}
    assert "no baseline of words" in caplog.text


def test_many_rows_are_sampled_and_it_is_said(monkeypatch, caplog):
    caplog.set_level(logging.INFO)
    monkeypatch.setattr(baselines, "MAX_ROWS", 200)
    train, test = spam(2_000), {"test": spam(50, seed=1)}
    one = score_baselines(*train, test, SPAM, seed=0)
    assert one == score_baselines(*train, test, SPAM, seed=0)
    assert one != score_baselines(*train, test, SPAM, seed=1)
    assert "fitted to 200 of the 2,000 training rows" in caplog.text


def test_a_label_that_none_of_the_sampled_rows_has_costs_no_more_than_being_wrong(monkeypatch):
    monkeypatch.setattr(baselines, "MAX_ROWS", 50)
    labels = Labels(("ham", "rare", "spam"), "single", ("ham", "rare", "spam"))
    texts, given = spam(1_000)
    given *= 2
    given[0] = 1
    found = score_baselines(texts, given, {"test": (texts[:100], given[:100])}, labels, seed=0)["test"]
    assert math.isfinite(found["tfidf_logistic_regression"]["log_loss"])
    assert 0.8 < found["tfidf_logistic_regression"]["accuracy"] < 1


def test_baselines_stand_beside_the_model_in_the_report_and_read_both_texts_of_a_pair(tmp_path):
    path = tmp_path / "rows.jsonl"
    lines = [f'{{"text": "x{n % 7}", "text_pair": "{"ja" if n % 2 else "no"}", "label": {n % 2}}}' for n in range(60)]
    path.write_text("\n".join(lines))
    data = DataSection(train=str(path), validation_fraction=0.3)
    splits = load_splits(data, "labelled", seed=0)
    evaluation = {"validation": {"accuracy": 0.5}}
    add_baselines(evaluation, splits, freeze_labels(splits, data), seed=0)
    assert evaluation["validation"]["accuracy"] == 0.5
    assert evaluation["validation"]["baselines"]["tfidf_logistic_regression"]["accuracy"] == 1.0


def test_without_a_split_to_score_there_is_nothing_to_compare():
    evaluation = {}
    add_baselines(evaluation, None, SPAM, seed=0)
    assert evaluation == {}


@pytest.mark.parametrize("labels", [SPAM, NUMBER])
def test_a_model_is_tested_beside_each_baseline_on_the_same_rows(labels):
    random = np.random.default_rng(3)
    texts = [f"word{number % 7} and" for number in range(120)]
    given = random.normal(size=120) if labels is NUMBER else random.integers(2, size=120)
    model = np.abs(random.normal(size=60)) if labels is NUMBER else random.integers(2, size=60).astype(float)
    arguments = (texts[:60], given[:60], {"test": (texts[60:], given[60:])}, labels, 0)
    found = score_baselines(*arguments, row_scores={"test": model})["test"]
    plain = score_baselines(*arguments)["test"]
    name = "mae" if labels is NUMBER else "accuracy"
    for baseline, figures in found.items():
        tested = figures.pop("comparison")[name]
        assert figures == plain[baseline]
        assert tested["base"] == pytest.approx(figures[name])
        assert tested["tuned"] == pytest.approx(model.mean())
        assert tested["detectable"] > 0
