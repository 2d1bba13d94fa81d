"""Rows to evaluate on that are trained on too, against a plain count over sets of words."""

from __future__ import annotations

import json
import logging
import random
from pathlib import Path

import numpy as np
import pytest
from datasets import Dataset

import hf_finetune.data.splitting.batches as batches_module
import hf_finetune.data.splitting.overlap as overlap_module
import hf_finetune.data.splitting.spill as spill_module
from hf_finetune.config.sections import DataSection
from hf_finetune.data import workers
from hf_finetune.data.reading.formats import get_features
from hf_finetune.data.splitting.overlap import NGRAM_SIZE, find_overlap
from hf_finetune.data.splitting.splits import load_splits
from hf_finetune.errors import DataError


@pytest.fixture(autouse=True)
def working_folder(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)


def write(name, rows):
    Path(name).write_text("".join(json.dumps(row) + "\n" for row in rows))
    return name


def pairs(count, start=0):
    return [{"question": f"What is {number}?", "answer": f"It is {number}."} for number in range(start, start + count)]


def load(becomes="conversation", **settings):
    return load_splits(DataSection(**settings), becomes, seed=0)


# The oracle: sets of tuples, straight from the definition.


def plain_key(row):
    return tuple((turn["role"], turn["extra"], *turn["content"].lower().split()) for turn in row["messages"])


def plain_runs(row):
    spoken = [turn["content"] for turn in row["messages"] if turn["role"] not in ("system", "developer")]
    words = " ".join(spoken).lower().split()
    return {tuple(words[start : start + NGRAM_SIZE]) for start in range(len(words) - NGRAM_SIZE + 1)}


def random_row(rng):
    def text():
        words = rng.choices(["a", "B", "b", "ß", "É", "\u4f60"], k=rng.choice([0, 1, 5, 20]))
        return rng.choice(["", " "]) + rng.choice([" ", "\n", "\u00a0 "]).join(words) + rng.choice(["", "\t"])

    roles = rng.choice([["user", "assistant"], ["system", "user", "assistant"], ["user", "assistant", "tool"]])
    more = {"train": None, "weight": None}
    return {
        "messages": [
            {"role": role, "content": text(), "extra": rng.choice([None, None, '{"name":"f"}']), **more}
            for role in roles
        ],
        "tools": None,
    }


@pytest.mark.parametrize(
    ("rows_at_once", "held", "settled", "processes"),
    [(3, 5, 4, 1), (3, 5, 2**22, 1), (4_000, 2**18, 2**22, 1), (3, 5, 4, 2)],
)
def test_copies_and_shared_runs_are_those_of_a_plain_count(monkeypatch, rows_at_once, held, settled, processes):
    monkeypatch.setattr(workers, "FEWEST_PRINTED", 2)
    monkeypatch.setattr(workers, "count_cores", lambda: processes)
    monkeypatch.setattr(batches_module, "ROWS_AT_ONCE", rows_at_once)
    monkeypatch.setattr(spill_module, "HELD_AT_ONCE", held)
    monkeypatch.setattr(overlap_module, "OFFERS_SETTLED", settled)
    rng = random.Random(1)
    copies = shared = 0
    rounds = 40 if processes == 1 else 12  # of which each begins processes
    for _ in range(rounds):
        train = [random_row(rng) for _ in range(rng.randint(1, 25))]
        other = [rng.choice([random_row(rng), *train[-3:]]) for _ in range(rng.randint(1, 12))]
        tables = [Dataset.from_list(rows, features=get_features("conversation")) for rows in (train, other)]
        chosen = [np.sort(rng.sample(range(len(rows)), rng.randint(1, len(rows)))) for rows in (train, other)]
        others = {"test": (tables[1], chosen[1])}
        found = find_overlap((tables[0], chosen[0]), others, num_proc=processes)["test"]
        keys = [plain_key(train[number]) for number in chosen[0]]
        runs = set().union(*(plain_runs(train[number]) for number in chosen[0]))
        expected = [plain_key(other[number]) for number in chosen[1]]
        assert found.copy_of.tolist() == [keys.index(key) if key in keys else -1 for key in expected]
        assert found.shares_ngram.tolist() == [bool(plain_runs(other[number]) & runs) for number in chosen[1]]
        copies, shared = copies + (found.copy_of >= 0).sum(), shared + found.shares_ngram.sum()
    assert copies > rounds // 3
    assert shared > rounds // 3


def test_a_copy_has_the_same_words_in_the_same_messages_by_the_same_speakers():
    def table(*said):
        messages = [
            {"role": role, "content": text, "train": None, "weight": None, "extra": None} for role, text in said
        ]
        return Dataset.from_list([{"messages": messages, "tools": None}], features=get_features("conversation"))

    row = (("user", "a b"), ("assistant", "c"))
    others = [
        ((("user", " A\nB"), ("assistant", "c ")), True),
        ((("assistant", "a b"), ("user", "c")), False),
        ((("user", "a"), ("assistant", "b c")), False),
        ((("user", "b a"), ("assistant", "c")), False),
        ((("user", "a b"), ("assistant", "c"), ("user", "")), False),
    ]
    for other, copied in others:
        found = find_overlap((table(*row), np.arange(1)), {"test": (table(*other), np.arange(1))})["test"]
        assert (found.copy_of.tolist() == [0]) == copied, other


def test_words_in_another_order_are_another_run():
    def table(words):
        messages = [{"role": "user", "content": " ".join(words), "train": None, "weight": None, "extra": None}]
        return Dataset.from_list([{"messages": messages, "tools": None}], features=get_features("conversation"))

    words = [f"w{number}" for number in range(NGRAM_SIZE)]
    for other, shared in ((words, True), (words[::-1], False), (["x", *words, "y"], True), (words[1:], False)):
        found = find_overlap((table(words), np.arange(1)), {"test": (table(other), np.arange(1))})["test"]
        assert found.shares_ngram.tolist() == [shared]


def test_copies_in_a_file_of_its_own_are_refused_by_pairs_of_lines():
    train = write("train.jsonl", pairs(5))
    validation = write("validation.jsonl", [*pairs(2, 10), {"question": "what  IS 3?\n", "answer": "It is 3."}])
    test = write("test.jsonl", [*pairs(1), *pairs(1, 20)])
    with pytest.raises(DataError) as error:
        load(train=train, validation=validation, test=test)
    assert [str(problem) for problem in error.value.problems] == [
        "validation.jsonl:3: data.validation: is also a training row (train.jsonl:4); take it out of one of the files "
        "[HF202]",
        "test.jsonl:1: data.test: is also a training row (train.jsonl:1); take it out of one of the files [HF202]",
    ]


def test_of_very_many_copies_a_hundred_are_named_and_all_are_counted():
    with pytest.raises(DataError) as error:
        load(
            train=write("train.jsonl", pairs(150)), validation=write("validation.jsonl", [*pairs(130), *pairs(1, 500)])
        )
    assert len(error.value.problems) == 100
    assert error.value.total == 130


def test_prompts_with_completions_are_compared_too(caplog):
    rows = [{"prompt": f"p {number}", "completion": "c"} for number in range(4)]
    train, validation = (
        write("train.jsonl", rows),
        write("validation.jsonl", [rows[2], {"prompt": "x", "completion": "c"}]),
    )
    with pytest.raises(DataError, match=r"validation\.jsonl:1: .* \(train\.jsonl:3\)"):
        load(train=train, validation=validation)
    assert "left out" not in caplog.text, "of a file of its own nothing is"


def test_the_same_question_with_another_answer_is_no_copy():
    other = [{"question": "What is 1?", "answer": "One."}]
    splits = load(train=write("train.jsonl", pairs(5)), validation=write("validation.jsonl", other))
    assert splits.overlap == {"validation": {"copies": 0, "shares_13_words": 0}}


def test_copies_are_left_out_of_a_split_that_is_drawn_from_the_same_file(caplog):
    again = [{name: text.upper() + " " for name, text in row.items()} for row in pairs(30)]
    with caplog.at_level(logging.WARNING, "hf_finetune"):
        splits = load(train=write("rows.jsonl", [*pairs(60), *again]), validation_fraction=0.4)
    kept = {name: {str(plain_key(row)) for row in rows} for name, rows in splits.rows.items()}
    assert not kept["train"] & kept["validation"]
    copies = splits.overlap["validation"]["copies"]
    assert copies > 0
    assert len(splits.rows["train"]) + len(splits.rows["validation"]) + copies == splits.files[0].accepted
    assert f"{copies} of " in caplog.text
    assert "copies of training rows and are left out" in caplog.text
    assert json.loads(json.dumps(splits.summarize()))["overlap"]["validation"]["copies"] == copies


def test_a_split_of_nothing_but_copies_is_refused():
    with pytest.raises(DataError, match="every row that was drawn for validation is a copy"):
        load(train=write("rows.jsonl", pairs(1) * 10), validation_fraction=0.2)


def test_shared_runs_are_counted_and_logged_and_system_messages_do_not_count(caplog):
    long = " ".join(f"word{number}" for number in range(20))

    def row(system, question, answer):
        said = (("system", system), ("user", question), ("assistant", answer))
        return {"messages": [{"role": role, "content": text} for role, text in said]}

    train = write("train.jsonl", [row(long, "q1", "a1"), row("s", "q2", long + " end"), row("s", "q3", "a3")])
    validation = write("validation.jsonl", [row(long, "q4", "a4"), row("s", "start " + long.upper(), "a5")])
    with caplog.at_level(logging.INFO, "hf_finetune"):
        splits = load(train=train, validation=validation)
    assert splits.overlap == {"validation": {"copies": 0, "shares_13_words": 1}}
    said = "validation: 1 of 2 rows shares 13 words in a row with training rows (copies are not counted here)"
    assert f"{said}: validation.jsonl:2" in caplog.text
    (logged,) = [record for record in caplog.records if said in record.getMessage()]
    assert logged.code == "HF204"


def test_more_rows_to_evaluate_on_than_to_train_on_are_pointed_out(caplog):
    with caplog.at_level(logging.WARNING, "hf_finetune"):
        load(train=write("train.jsonl", pairs(2)), validation=write("validation.jsonl", pairs(3, 10)))
    assert "validation has more rows than train: 3 and 2; are they swapped?" in caplog.text


def test_documents_are_not_compared():
    rows = [{"text": "the same"}]
    train, validation = write("train.jsonl", [*rows, {"text": "a"}]), write("validation.jsonl", [*rows, {"text": "b"}])
    assert load("document", train=train, validation=validation).overlap == {}


# Labelled rows: copies are counted and stay


def labelled(count, start=0, **more):
    return [{"text": f"Text number {n}.", "label": "even" if n % 2 == 0 else "odd"} | more for n in range(start, count)]


def test_labelled_rows_with_the_text_of_a_training_row_are_counted_and_pointed_out(caplog):
    validation = [
        *labelled(12, 10),
        {"text": "text  NUMBER 3.\n", "label": "odd"},
        {"text": "Text number 2.", "label": "odd"},
        {"text": "Text number 2.", "label": "even", "text_pair": "and more"},
    ]
    with caplog.at_level(logging.WARNING, "hf_finetune"):
        splits = load(
            "labelled", train=write("train.jsonl", labelled(5)), validation=write("validation.jsonl", validation)
        )
    assert splits.overlap == {"validation": {"copies": 2, "other_label": 1, "shares_13_words": 0}}
    assert len(splits.rows["validation"]) == 5
    assert (
        "validation: 2 rows have the text of a training row, 1 of them with another label: "
        "validation.jsonl:3 (as train.jsonl:4), validation.jsonl:4 (as train.jsonl:3)"
    ) in caplog.text
    assert json.loads(json.dumps(splits.summarize()))["overlap"] == splits.overlap


def test_of_many_copies_the_first_few_are_shown(caplog):
    train = write("train.jsonl", labelled(30))
    with caplog.at_level(logging.WARNING, "hf_finetune"):
        load("labelled", train=train, test=write("test.jsonl", [*labelled(8), {"text": "new", "label": "odd"}]))
    assert "test: 8 rows have the text of a training row, 0 of them with another label" in caplog.text
    assert "test.jsonl:5 (as train.jsonl:5) ..." in caplog.text
    assert "test.jsonl:6" not in caplog.text


def test_labels_of_copies_in_a_drawn_split_are_compared_with_those_of_the_training_rows():
    rows = labelled(200) + [{"text": row["text"].upper(), "label": "odd"} for row in labelled(200)]
    data = DataSection(train=[{"path": write("rows.jsonl", rows), "weight": 2.0}], validation_fraction=0.3)
    splits = load_splits(data, "labelled", 0)
    trained = {row["text"].lower(): row["label"] for row in splits.rows["train"]}
    copies = [row for row in splits.rows["validation"] if row["text"].lower() in trained]
    other = sum(row["label"] != trained[row["text"].lower()] for row in copies)
    assert len(copies) - 10 > other > 10
    assert splits.overlap["validation"] == {"copies": len(copies), "other_label": other, "shares_13_words": 0}


def test_a_pair_is_a_copy_of_the_same_pair_alone_and_the_order_of_labels_is_none():
    pair = {"text": "one", "text_pair": "two", "label": ["a", "b"]}
    others = [
        pair | {"label": ["b", "a"]},
        pair | {"text": "two", "text_pair": "one"},
        pair | {"text": "one two", "text_pair": None},
        pair | {"text_pair": ""},
    ]
    train = write("train.jsonl", [pair, {"text": "one", "label": ["a"]}])
    splits = load("labelled", train=train, validation=write("validation.jsonl", others))
    assert splits.overlap["validation"] == {"copies": 2, "other_label": 1, "shares_13_words": 0}


def test_long_labelled_texts_that_share_a_run_are_counted(caplog):
    long = " ".join(f"word{number}" for number in range(20))
    train = write("train.jsonl", [{"text": long, "label": 0}, {"text": "x", "label": 1}])
    other = [{"text": f"start {long}", "label": 0}, {"text": "y", "label": 1}]
    with caplog.at_level(logging.INFO, "hf_finetune"):
        splits = load("labelled", train=train, validation=write("validation.jsonl", other))
    assert splits.overlap["validation"] == {"copies": 0, "other_label": 0, "shares_13_words": 1}
    assert "1 of 2 rows shares 13 words" in caplog.text


def test_copies_of_repeated_labelled_rows_are_drawn_into_one_split():
    rows = [*labelled(60), *labelled(20), *labelled(20)]
    for seed in range(20):
        data = DataSection(train=write("rows.jsonl", rows), validation_fraction=0.2, test_fraction=0.1)
        splits = load_splits(data, "labelled", seed)
        assert [facts["copies"] for facts in splits.overlap.values()] == [0, 0]
        assert {name: len(each) for name, each in splits.rows.items()} == {"train": 70, "validation": 20, "test": 10}
