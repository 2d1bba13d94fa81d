"""`data.labels` names the labels of rows as a model has them: rows are then what they would be if rewritten by hand."""

from __future__ import annotations

import json
import logging
from pathlib import Path

import pytest

from hf_finetune.config.sections import DataSection
from hf_finetune.data.labels.freeze import freeze_labels
from hf_finetune.data.splitting.splits import load_splits
from hf_finetune.errors import DataError
from hf_finetune.label_set import suggest_label_map

NAMES = {"pos": "POSITIVE", "neg": "NEGATIVE"}


@pytest.fixture(autouse=True)
def working_folder(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)


def write(name: str, labels: list) -> str:
    rows = [{"text": f"row {number}", "label": label} for number, label in enumerate(labels)]
    Path(name).write_text("".join(json.dumps(row) + "\n" for row in rows))
    return name


def load(labels: list, names: dict, **settings):
    data = DataSection(train=write("train.jsonl", labels), labels=names, **settings)
    splits = load_splits(data, "labelled", 0)
    return freeze_labels(splits, data), splits


def refused(labels: list, names: dict, **settings) -> list[str]:
    with pytest.raises(DataError) as error:
        load(labels, names, **settings)
    return str(error.value).splitlines()


CASES = {
    "text": (["pos", "neg", "neg", "pos"], NAMES, ["POSITIVE", "NEGATIVE", "NEGATIVE", "POSITIVE"]),
    "whole numbers": ([1, 0, 0, 1], {"0": "no", "1": "yes"}, ["yes", "no", "no", "yes"]),
    "numbers for numbers": ([1, 2, 2, 1], {"1": 0, "2": 1}, ["0", "1", "1", "0"]),
    "swapped": (["a", "b", "b", "a"], {"a": "b", "b": "a"}, ["b", "a", "a", "b"]),
    "two onto one": ([1, 2, 5, 4], {"1": "bad", "2": "bad", "4": "good", "5": "good"}, ["bad", "bad", "good", "good"]),
    "some are there": (["pos", "NEGATIVE", "neg", "POSITIVE"], NAMES, ["POSITIVE", "NEGATIVE", "NEGATIVE", "POSITIVE"]),
    "several": ([["pos", "neg"], ["neg"], ["pos"]], NAMES, [["POSITIVE", "NEGATIVE"], ["NEGATIVE"], ["POSITIVE"]]),
    "several onto one": (
        [[1, 2], [5], [2, 5]],
        {"1": "bad", "2": "bad", "5": "good"},
        [["bad"], ["good"], ["bad", "good"]],
    ),
}


@pytest.mark.parametrize("case", CASES)
@pytest.mark.parametrize("spoiled", [False, True], ids=["by block", "by line"])
def test_rows_under_a_map_are_the_rows_that_were_rewritten_by_hand(case, spoiled):
    labels, names, rewritten = CASES[case]
    settings = {"on_bad_line": "skip"} if spoiled else {}
    text = Path(write("spare.jsonl", labels)).read_text() + "no row\n" * spoiled
    mapped = DataSection(train=write("train.jsonl", labels), labels=names, **settings)
    Path("train.jsonl").write_text(text)
    plain = DataSection(train=write("plain.jsonl", rewritten))
    one, other = load_splits(mapped, "labelled", 0), load_splits(plain, "labelled", 0)
    assert one.rows["train"][:] == other.rows["train"][:]
    assert one.hashes["train"].tolist() == other.hashes["train"].tolist()
    assert freeze_labels(one, mapped) == freeze_labels(other, plain)


def test_splits_are_stratified_by_the_names_that_the_run_has():
    labels = [1, 2, 5, 5] * 10  # as many good as bad: of 8 rows, 4
    names = {"1": "bad", "2": "bad", "5": "good"}
    _, splits = load(labels, names, validation_fraction=0.2, stratify_by="label")
    assert sorted(splits.rows["validation"]["label"]) == ["bad"] * 4 + ["good"] * 4


def test_the_map_is_logged_and_is_in_the_manifest(caplog):
    with caplog.at_level(logging.INFO):
        _, splits = load(["pos", "neg"] * 2, NAMES)
    assert "train.jsonl: labels pos -> POSITIVE, neg -> NEGATIVE" in caplog.messages
    assert splits.summarize()["labels"] == NAMES


def test_a_label_that_is_not_in_the_map_is_named_by_line_with_the_map_that_has_it():
    [first, second, count] = refused(["pos", "neg", "so-so", "pos", "so-so"], NAMES)
    remedy = '`data.labels: {pos: POSITIVE, neg: NEGATIVE, "so-so": "so-so"}`'
    assert first.startswith("train.jsonl:3: label: the label 'so-so' is not in data.labels; add it under the name")
    assert first.endswith(f"that it is to have, such as {remedy} [HF304]")
    assert second == first.replace(":3:", ":5:")
    assert count == "2 problems"


def test_a_label_that_is_misspelled_is_told_what_was_probably_meant():
    [line] = refused(["pos", "neg", "negg", "pos", "neg"], NAMES)
    assert "did you mean 'neg'? if not, add it" in line


def test_a_key_that_no_row_has_is_one_message():
    [line] = refused(["pos", "neg"] * 2, NAMES | {"positive": "POSITIVE"})
    assert line == "data.labels: no row has the label 'positive'; correct it, or leave it out [HF305]"


def test_a_key_that_a_split_of_its_own_has_is_one_of_the_rows_again_from_the_cache():
    names = NAMES | {"good": "POSITIVE"}
    for _ in range(2):
        load(["pos", "neg"] * 2, names, test=write("test.jsonl", ["good", "neg", "neg"]))
    Path("test.jsonl").unlink()
    [line] = refused(["pos", "neg"] * 2, names)
    assert "no row has the label 'good'" in line


def test_labels_that_are_alike_under_their_own_names_are_no_problem_and_names_that_are_alike_are():
    load(["Pos", "pos", "neg", "neg"], {"Pos": "POSITIVE"} | NAMES)
    [line] = refused(["pos", "good", "neg", "neg"], NAMES | {"good": "Positive"})[:1]
    assert "differ by case or white space only" in line


SUGGESTED = [
    (["neg", "pos"], ["POSITIVE", "NEGATIVE"], "{neg: NEGATIVE, pos: POSITIVE}"),
    (["0", "1"], ["NEGATIVE", "POSITIVE"], "{0: NEGATIVE, 1: POSITIVE}"),
    (["ham", "junk"], ["ham", "spam"], "{ham: ham, junk: spam}"),
    (["1", "2", "3", "4"], ["bad", "good"], "{1: bad, 2: bad, 3: good, 4: good}"),
    (["no", "yes"], ["a b", "c"], '{"no": "a b", "yes": c}'),
]


@pytest.mark.parametrize(("found", "known", "line"), SUGGESTED)
def test_a_map_is_suggested_that_can_be_pasted(found, known, line, tmp_path):
    from hf_finetune.config.reading.yaml_reader import read_document

    assert suggest_label_map(found, known) == f"`data.labels: {line}`"
    pasted = tmp_path / "run.yaml"
    pasted.write_text(f"data:\n  labels: {line}\n")
    names = DataSection(train="x", **read_document(str(pasted)).values["data"]).labels
    assert set(names) == set(found)
    assert set(map(str, names.values())) <= set(known)
