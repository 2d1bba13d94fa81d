"""Labels are frozen from the training rows, and whatever is wrong with them is said by file and line, all at once."""

from __future__ import annotations

import json
import logging
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from hf_finetune.config.sections import DataSection
from hf_finetune.data.labels.freeze import freeze_labels
from hf_finetune.data.reading.row_checks.labels import normalize_label
from hf_finetune.data.splitting.splits import load_splits
from hf_finetune.errors import DataError
from hf_finetune.label_set import Labels


@pytest.fixture(autouse=True)
def working_folder(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)


def write(name, labels, start=0):
    """A file of rows with these labels, and a text of its own in each."""
    rows = [{"text": f"{name} {number}", "label": label} for number, label in enumerate(labels, start)]
    Path(name).write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
    return name


def freeze(labels, seed=0, **settings):
    data = DataSection(train=write("train.jsonl", labels), **settings)
    return freeze_labels(load_splits(data, "labelled", seed), data)


def refused(labels, **settings):
    with pytest.raises(DataError) as error:
        freeze(labels, **settings)
    return [str(problem) for problem in error.value.problems]


# What they become


def test_text_is_sorted_by_code_point_and_numbers_by_size():
    words = freeze(["b", "a", "Z", "é", "b", "a", "Z", "é"])
    assert (words.names, words.values, words.kind) == (("Z", "a", "b", "é"), ("Z", "a", "b", "é"), "single")
    numbers = freeze([10, 9, -1, 9, 10, -1])
    assert (numbers.names, numbers.values) == (("-1", "9", "10"), (-1, 9, 10))
    assert numbers.id2label == {0: "-1", 1: "9", 2: "10"}
    assert numbers.label2id == {"-1": 0, "9": 1, "10": 2}


def test_a_problem_type_never_has_to_be_guessed():
    assert freeze([0, 1, 0, 1]).problem_type == "single_label_classification"
    assert freeze([["a"], ["b"], ["a", "b"]]).problem_type == "multi_label_classification"
    assert freeze([0, 1.5, 0], task="regression").problem_type == "regression"


def test_rows_become_class_numbers_indicators_or_numbers():
    single = freeze([2, 0, 0, 2])
    encoded = single.encode([2, 0, 0, 2])
    assert (encoded.dtype, encoded.tolist()) == (np.int64, [1, 0, 0, 1])
    multi = freeze([["b", "a"], ["b"], [], ["a"]], allow_empty=True)
    encoded = multi.encode([["b", "a"], ["b"], [], ["a"]])
    assert (encoded.dtype, encoded.tolist()) == (np.float32, [[1, 1], [0, 1], [0, 0], [1, 0]])
    number = freeze([1, 2.5, -3], task="regression")
    assert (number.names, number.kind) == (("value",), "number")
    assert (number.encode([1.0, 2.5]).dtype, number.encode([1.0, 2.5]).tolist()) == (np.float32, [1.0, 2.5])


def test_a_column_of_a_data_set_is_encoded_as_it_is():
    data = DataSection(train=write("train.jsonl", ["b", "a", "b", "a"]))
    splits = load_splits(data, "labelled", 0)
    assert freeze_labels(splits, data).encode(splits.rows["train"]["label"]).tolist() == [1, 0, 1, 0]


def test_a_label_that_is_none_of_them_is_not_encoded():
    with pytest.raises(DataError, match="'c' is none of the labels; they are a, b"):
        Labels(("a", "b"), "single", ("a", "b")).encode(["a", "c"])


@given(st.lists(st.integers(-5, 30), min_size=1, max_size=40).filter(lambda values: len(set(values)) > 1))
def test_what_is_encoded_can_be_read_back(column):
    values = tuple(sorted(set(column)))
    labels = Labels(tuple(map(str, values)), "single", values)
    assert [values[number] for number in labels.encode(column)] == column
    rows = [sorted(set(column[start : start + 3])) for start in range(len(column))]
    encoded = Labels(labels.names, "multi", values).encode(rows)
    assert [[value for value, there in zip(values, row, strict=True) if there] for row in encoded] == rows


def test_the_counts_and_numbers_with_a_gap_are_said(caplog):
    with caplog.at_level(logging.INFO, "hf_finetune"):
        assert freeze([2, 0, 0, 0, 2]).names == ("0", "2")
    assert "2 labels, with their training rows: 0 3, 2 2" in caplog.text
    assert "the labels are not 0, 1, 2 ...: 0, 2 are 2 classes of these names" in caplog.text
    caplog.clear()
    with caplog.at_level(logging.INFO, "hf_finetune"):
        freeze([0, 1, 0, 1])
        freeze([f"label {number // 2}" for number in range(60)])
    assert "the labels are not" not in caplog.text
    assert "30 labels" in caplog.text
    assert "'label 26' 2, ..." in caplog.text
    assert "'label 27'" not in caplog.text


# What is refused


def test_a_label_that_only_an_evaluation_split_has_is_named_by_file_and_line():
    validation = write("validation.jsonl", ["ham", "Spam", "eggs", "ham"], 10)
    test = write("test.jsonl", ["spam ", "eggs"], 20)
    problems = refused(["ham", "spam"] * 3, validation=validation, test=test)
    assert problems == [
        "test.jsonl:1: label: the label 'spam ' is in test, but no training row has it; did you mean 'spam'? write it "
        "in one way [HF308]",
        "test.jsonl:2: label: the label 'eggs' is in test, but no training row has it; add training rows of it, or "
        "take the row out [HF308]",
        "validation.jsonl:2: label: the label 'Spam' is in validation, but no training row has it; did you mean "
        "'spam'? write it in one way [HF308]",
        "validation.jsonl:3: label: the label 'eggs' is in validation, but no training row has it; add training rows "
        "of it, or take the row out [HF308]",
    ]


def test_of_very_many_unknown_labels_a_hundred_are_named_and_all_are_counted():
    validation = write("validation.jsonl", ["c"] * 250, 10)
    with pytest.raises(DataError) as error:
        freeze(["a", "b"] * 200, validation=validation)
    assert (len(error.value.problems), error.value.total) == (100, 250)


def test_a_label_that_a_drawn_split_has_alone_can_be_put_right_by_stratifying():
    labels = ["common"] * 40 + ["rare"] * 2
    drawn = next(seed for seed in range(200) if _only_in_validation(labels, seed))
    with pytest.raises(DataError, match=r"no training row has it; set data\.stratify_by to the field of the label"):
        freeze(labels, seed=drawn, validation_fraction=0.2)
    assert freeze(labels, seed=drawn, validation_fraction=0.2, stratify_by="label").names == ("common", "rare")


def _only_in_validation(labels, seed):
    data = DataSection(train=write("train.jsonl", labels), validation_fraction=0.2)
    return "rare" not in load_splits(data, "labelled", seed).rows["train"]["label"][:]


@pytest.mark.parametrize(
    ("other", "how"),
    [
        ("Spam", "differ by case or white space only"),
        ("spam ", "differ by case or white space only"),
        ("sp am", "differ by case or white space only"),
        ("\u00a0SPAM", "differ by case or white space only"),
    ],
)
def test_labels_that_differ_by_case_or_blanks_are_named_together(other, how):
    (problem,) = refused(["ham", "spam", other, "spam", "spam", other, "ham"])
    assert problem == (
        f"train.jsonl:3: label: the labels {other!r} (2 rows, the first here) and 'spam' (3 rows, the first at "
        f"train.jsonl:2) {how}; did you mean 'spam'? write it in one way [HF303]"
    )


@pytest.mark.parametrize(("one", "other"), [("1", "1.0"), ("1", "01"), ("-2", "-2.00"), ("0", "-0")])
def test_text_that_writes_the_same_number_in_two_ways_is_named_together(one, other):
    (problem,) = refused([one, "3", other, one, one, other, "3"])
    assert f"the labels {other!r} (2 rows, the first here) and {one!r} (3 rows" in problem
    assert "are the same number; did you mean" in problem


def test_labels_that_are_not_alike_are_left_alone():
    different = ["1", "10", "2", "12345678901234567", "12345678901234568", "v1.1", "v1.10", "a", "b", "e\u0301", "e"]
    assert set(freeze(different * 2).names) == set(different)
    assert normalize_label("é") == normalize_label("e\u0301")


def test_one_label_is_nothing_to_tell_apart():
    for labels, shown in ((["ham"] * 4, "'ham'"), ([7] * 4, "7"), ([["a"], ["a"]], "'a'")):
        (problem,) = refused(labels)
        assert problem.startswith(f"data.train: the training rows have one label only, {shown}; there must be two")
    assert "no training row has one" in refused([[], []], allow_empty=True)[0]


def test_a_label_of_a_single_row_in_all_splits_is_named():
    assert refused(["a", "b", "a", "b", "c", "a"], validation=write("validation.jsonl", ["a", "b"], 10)) == [
        "train.jsonl:5: label: the label 'c' has a single row in all splits together; add rows of it, merge it with "
        "another, or take it out [HF307]"
    ]
    assert freeze(["a", "a", "c"], validation=write("other.jsonl", ["a", "c"], 10)).names == ("a", "c")
    assert refused([[1, 2], [1], [2], [3, 1]])[0].startswith("train.jsonl:4: label: the label 3 has a single row")


def test_a_single_row_is_named_whichever_drawn_split_it_is_in():
    for seed in range(20):
        (problem,) = refused(["a", "b"] * 10 + ["c"], seed=seed, validation_fraction=0.3)
        assert problem.startswith("train.jsonl:21: label: the label 'c' has a single row in all splits together")


def test_a_single_row_that_is_a_slip_is_named_as_one():
    (problem,) = refused(["ham", "spam", "Ham", "spam", "ham"])
    assert problem.startswith("train.jsonl:3: label: the labels 'Ham' (1 row, the first here) and 'ham' (2 rows")
    for seed in range(20):
        assert "did you mean 'ham'?" in " ".join(refused(["ham", "x"] * 9 + ["Ham"], seed=seed, test_fraction=0.3))


def test_a_row_that_a_weight_repeats_is_still_a_single_row():
    (problem,) = refused_by_source(["a", "a", "b", "b", "c"], weight=3.0)
    assert problem.startswith("rows.jsonl:5: label: the label 'c' has a single row in all splits together")


def refused_by_source(labels, weight):
    data = DataSection(train=[{"path": write("rows.jsonl", labels), "weight": weight}])
    with pytest.raises(DataError) as error:
        freeze_labels(load_splits(data, "labelled", 0), data)
    return [str(problem) for problem in error.value.problems]


def test_rare_labels_that_should_be_stratified_are_named_with_what_was_meant():
    message = refused(["ham", "b", "ham", "b", "Ham", "c", "ham", "ham"], validation_fraction=0.4, stratify_by="label")
    assert any(line.startswith("train.jsonl:6: label: the label 'c' has a single row") for line in message)
    assert any("did you mean 'ham'?" in line for line in message)


def test_blank_labels_rows_without_a_label_and_labels_said_twice_are_refused_line_by_line():
    assert refused(["a", "", "b", " \t"]) == [
        f"train.jsonl:{line}: label: the label is empty; name it, or take the row out [HF301]" for line in (2, 4)
    ]
    assert refused([["a"], [], ["b", "a", "b"], ["a", ""], [3]]) == [
        "train.jsonl:2: label: the row has no label; give it one, or set data.allow_empty: true where none of the "
        "labels fits [HF301]",
        "train.jsonl:3: label: the label 'b' occurs twice; keep one of them [HF302]",
        "train.jsonl:4: label: the label is empty; name it, or take the row out [HF301]",
        "train.jsonl:5: label: the label's type is list of integers, where list of strings was set by train.jsonl:1; "
        'write all labels in one type: 1 and "1" would be two labels [HF300]',
    ]
    left = freeze([["a"], [], ["b", "b"], ["a", "b"], ["b"]], on_bad_line="skip")
    assert left.names == ("a", "b")


def test_numbers_and_numeric_text_are_not_two_classes():
    assert refused([1, "1", 2, "x"]) == [
        f"train.jsonl:{line}: label: the label's type is string, where integer was set by train.jsonl:1; write all "
        'labels in one type: 1 and "1" would be two labels [HF300]'
        for line in (2, 4)
    ]


def test_numbers_are_not_predicted_unless_asked_for():
    assert refused([1, 2.5]) == [
        "train.jsonl:2: label: `label` must be integer or string or array, found float; write a class as text or as a "
        "whole number; data.task: regression predicts numbers [HF026]"
    ]
    assert refused([1, "x", True], task="regression") == [
        'train.jsonl:2: label: `label` must be a number, found "x"; write a number; where labels have names, leave '
        "data.task: regression out [HF027]",
        "train.jsonl:3: label: `label` must be a number, found a boolean; write a number, or take the row out [HF027]",
    ]


def test_numbers_that_are_all_the_same_or_too_large_are_refused():
    assert "every training row has the same label" in refused([2, 2.0, 2], task="regression")[0]
    problems = refused([1, 1e300, 3, -1e39], task="regression")
    assert [problem.split(":")[1] for problem in problems] == ["2", "4"]
    assert "too large for float32" in problems[0]


def test_weights_are_for_every_label_and_for_no_other():
    assert refused(["ham", "spam"] * 2, balance={"ham": 1, "spma": 4}) == [
        "data.balance: 'spma' is no label of the training rows; did you mean spam? [HF309]",
        "data.balance: has no weight for 'spam'; give each label one; the labels are ham, spam [HF309]",
    ]
    assert refused([0, 1, 0, 1], balance={"0": 1, "1": 2, "7": 3}) == [
        "data.balance: '7' is no label of the training rows; the labels are 0, 1 [HF309]"
    ]
    assert freeze([0, 1, 0, 1], balance={"0": 1, "1": 2}).names == ("0", "1")


def test_everything_that_is_wrong_is_said_at_once():
    validation = write("validation.jsonl", ["eggs", "eggs"], 10)
    problems = refused(["ham", "Ham", "ham", "Ham", "spam", "beans", "beans"], validation=validation, balance={"x": 1})
    found = " ".join(problems)
    for part in (
        "differ by case",
        "'spam' has a single row in all splits",
        "'eggs' is in validation",
        "'x' is no label",
    ):
        assert part in found


@pytest.mark.parametrize("as_list", [False, True])
def test_labels_that_are_one_are_said_in_the_same_try_as_a_row_that_is_wrong(as_list):
    words = ["spam", "", "Spam", "ham", "spam"]
    problems = refused([[word] for word in words] if as_list else words)
    assert problems == [
        "train.jsonl:2: label: the label is empty; name it, or take the row out [HF301]",
        "train.jsonl:3: label: the labels 'Spam' (1 row, the first here) and 'spam' (2 rows, the first at "
        "train.jsonl:1) differ by case or white space only; did you mean 'spam'? write it in one way [HF303]",
    ]
    assert len(refused([1, True, 2])) == 1  # numbers have one spelling


def test_a_label_that_an_evaluation_split_lacks_is_pointed_out(caplog):
    with caplog.at_level(logging.WARNING, "hf_finetune"):
        freeze(["a", "b", "c"] * 2, validation=write("validation.jsonl", ["a", "a", "c"], 10))
    assert "validation has no row of 1 of the labels, which it cannot score: 'b'" in caplog.text
    assert "train has" not in caplog.text


def test_rows_without_a_label_cannot_be_classified():
    Path("rows.jsonl").write_text('{"text": "a"}\n')
    data = DataSection(train="rows.jsonl")
    with pytest.raises(DataError, match="rows of format text have no label"):
        freeze_labels(load_splits(data, "document", 0), data)
