"""Likely label errors come first, by file and line, and texts are shown only when asked for."""

from __future__ import annotations

import logging
from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from hf_finetune.config.sections import DataSection, EvalSection
from hf_finetune.data.labels.freeze import freeze_labels
from hf_finetune.data.splitting.splits import load_splits
from hf_finetune.evaluation.classification.metrics import ClassifierOutputs
from hf_finetune.evaluation.classification.mistakes import Mistake, find_worst_mistakes, locate_mistakes, show_mistakes
from hf_finetune.label_set import Labels
from hf_finetune.models.decision import Decision

SPAM = Labels(("ham", "spam"), "single", ("ham", "spam"))
TAGS = Labels(("art", "law"), "multi", ("art", "law"))
NUMBER = Labels(("value",), "number")


def logit(probability):
    return np.log(probability) - np.log1p(-probability)


def spam_outputs(of_spam, references):
    logits = logit(np.asarray(of_spam))
    return ClassifierOutputs(np.stack([np.zeros_like(logits), logits], axis=1), np.asarray(references))


def test_the_row_whose_label_is_least_likely_comes_first_and_what_is_right_does_not_come():
    outputs = spam_outputs([0.98, 0.3, 0.6, 0.01, 0.9], [0, 1, 0, 1, 1])
    found = find_worst_mistakes(outputs, SPAM, None)
    assert [mistake.row for mistake in found] == [3, 0, 1, 2]
    assert (found[1].label, found[1].predicted) == ("ham", "spam")
    assert found[1].probability_of_label == pytest.approx(0.02)
    assert found[1].probability_of_predicted == pytest.approx(0.98)
    assert find_worst_mistakes(outputs, SPAM, None, most=2) == found[:2]


def test_probabilities_are_calibrated_and_thresholds_decide_what_is_a_mistake():
    outputs = spam_outputs([0.98, 0.6], [0, 0])
    decision = Decision(("ham", "spam"), "single", temperature=2.0, thresholds=(0.3, 0.7))
    (found,) = find_worst_mistakes(outputs, SPAM, decision)
    assert found.row == 0
    assert found.probability_of_predicted == pytest.approx(1 / (1 + np.exp(-logit(0.98) / 2)))


def test_of_several_labels_the_one_furthest_on_the_wrong_side_is_named():
    logits = logit(np.array([[0.9, 0.7], [0.2, 0.1], [0.6, 0.4]]))
    found = find_worst_mistakes(ClassifierOutputs(logits, np.array([[0, 0], [1, 1], [1, 0]])), TAGS, None)
    assert [(mistake.row, mistake.label, mistake.predicted) for mistake in found] == [
        (0, "not art", "art"),
        (1, "law", "not law"),
    ]
    assert [mistake.probability_of_predicted for mistake in found] == pytest.approx([0.9, 0.9])
    assert [mistake.probability_of_label for mistake in found] == pytest.approx([0.1, 0.1])


def test_of_numbers_the_largest_errors_come_first():
    outputs = ClassifierOutputs(np.array([[1.0], [2.0], [-3.0]]), np.array([1.5, 2.0, 3.0]))
    assert find_worst_mistakes(outputs, NUMBER, None) == [
        Mistake(2, 3.0, -3.0, None, None),
        Mistake(0, 1.5, 1.0, None, None),
    ]


@given(st.integers(0, 2**32 - 1), st.sampled_from(["single", "multi"]))
def test_every_mistake_is_listed_once_in_order_of_the_probability_of_its_label(seed, kind):
    random = np.random.default_rng(seed)
    labels = Labels(("a", "b", "c"), kind, ("a", "b", "c"))
    logits = random.normal(size=(40, 3))
    references = random.integers(3, size=40) if kind == "single" else random.integers(2, size=(40, 3))
    found = find_worst_mistakes(ClassifierOutputs(logits, references), labels, None, most=1000)
    wrong = ((logits > 0) != references).any(axis=1) if kind == "multi" else logits.argmax(axis=1) != references
    assert sorted(mistake.row for mistake in found) == np.flatnonzero(wrong).tolist()
    told = [mistake.probability_of_label for mistake in found]
    assert told == sorted(told)
    assert all(mistake.label != mistake.predicted for mistake in found)


@pytest.fixture
def spam_splits(tmp_path):
    path = tmp_path / "rows.jsonl"
    lines = [f'{{"text": "text {n}", "label": "{"spam" if n % 3 else "ham"}"}}' for n in range(30)]
    lines.insert(4, "")  # a blank line: row and line number go apart
    path.write_text("\n".join(lines))
    data = DataSection(train=str(path), validation_fraction=0.4)
    splits = load_splits(data, "labelled", seed=0)
    return path, splits, freeze_labels(splits, data)


def outputs_of(splits, labels):
    """Sure of spam everywhere."""
    references = labels.encode(splits.rows["validation"]["label"])
    return {"validation": spam_outputs(np.linspace(0.9, 0.99, len(references)), references)}


PARTS = ("rows", "hashes", "places")


def test_mistakes_are_named_by_file_and_line(spam_splits, caplog):
    caplog.set_level(logging.INFO)
    path, splits, labels = spam_splits
    found = show_mistakes(outputs_of(splits, labels), labels, None, splits, EvalSection())
    ham = [row for row, label in enumerate(splits.rows["validation"]["label"]) if label == "ham"]
    assert len(found) == len(ham) > 1
    lines = path.read_text().splitlines()
    for each in found:
        assert each["path"] == str(path)
        assert '"ham"' in lines[each["line"] - 1]
        assert each.keys() == {
            "split", "path", "line", "label", "predicted", "probability", "probability_of_label"
        }  # fmt: skip
    first = found[0]
    said = f"labelled ham ({first['probability_of_label']:.2f}), predicted spam ({first['probability']:.2f})"
    assert f"{path}:{first['line']}: {said}" in caplog.text
    assert "text " not in caplog.text


def test_texts_are_shown_only_when_asked_for(spam_splits, caplog):
    caplog.set_level(logging.INFO)
    _, splits, labels = spam_splits
    found = show_mistakes(outputs_of(splits, labels), labels, None, splits, EvalSection(show_data=True))
    assert all(each["text"].startswith("text ") for each in found)
    assert f": {found[0]['text']}" in caplog.text


def test_control_characters_of_a_text_do_not_reach_the_screen(tmp_path, caplog):
    caplog.set_level(logging.INFO)
    path = tmp_path / "rows.jsonl"
    path.write_text("\n".join(f'{{"text": "\\u001b[31m{n}\\nred", "label": {n % 2}}}' for n in range(20)))
    data = DataSection(train=str(path), validation_fraction=0.5)
    splits = load_splits(data, "labelled", seed=0)
    labels = freeze_labels(splits, data)
    show_mistakes(outputs_of(splits, labels), labels, None, splits, EvalSection(show_data=True))
    assert "\\x1b[31m" in caplog.text
    assert "\x1b" not in caplog.text


def test_numbers_are_said_as_numbers(spam_splits, caplog):
    caplog.set_level(logging.INFO)
    _, splits, _ = spam_splits
    outputs = ClassifierOutputs(np.array([[1.23456], [0.0]]), np.array([3.5, 0.0]))
    found = show_mistakes({"validation": outputs}, NUMBER, None, splits, EvalSection())
    assert found == locate_mistakes([Mistake(0, 3.5, 1.23456, None, None)], splits, "validation")
    assert found[0].keys() == {"split", "path", "line", "label", "predicted"}
    assert "labelled 3.5, predicted 1.235" in caplog.text


def test_mistakes_of_every_split_are_shown_in_the_order_of_the_number_that_is_shown_first(spam_splits, caplog):
    caplog.set_level(logging.INFO)
    _, splits, labels = spam_splits
    both = replace(splits, **{part: getattr(splits, part) | {"test": getattr(splits, part)["train"]} for part in PARTS})
    references = labels.encode(both.rows["test"]["label"])
    outputs = outputs_of(splits, labels) | {"test": spam_outputs(np.linspace(0.6, 0.99, len(references)), references)}
    found = show_mistakes(outputs, labels, None, both, EvalSection())
    assert [each["split"] for each in found] == sorted((each["split"] for each in found), reverse=True)
    assert {each["split"] for each in found} == {"validation", "test"}
    for split in ("validation", "test"):
        shown = [each["probability_of_label"] for each in found if each["split"] == split]
        assert shown == sorted(shown)
        assert f"worst mistakes on {split}" in caplog.text


def test_without_a_split_to_evaluate_nothing_is_listed(spam_splits):
    _, splits, labels = spam_splits
    assert show_mistakes({}, labels, None, splits, EvalSection(show_data=True)) == []
