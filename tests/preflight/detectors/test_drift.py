"""Rows of another kind than the training rows, and rows of a benchmark among them."""

from __future__ import annotations

import json
import random
from pathlib import Path

import pytest

from hf_finetune.config.sections import DataSection
from hf_finetune.data.splitting.splits import load_splits
from hf_finetune.errors import DataError
from hf_finetune.preflight.detectors.benchmarks import detect_benchmark_overlap, read_against
from hf_finetune.preflight.detectors.drift import detect_drift, measure_drift
from hf_finetune.preflight.findings import Place

WORDS = [f"{first}{second}" for first in "bdfgklmnprst" for second in ("ale", "on", "ur", "ieb", "ox", "ant", "y")]


@pytest.fixture(autouse=True)
def working_folder(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)


def make_texts(seed, count, words=WORDS):
    rng = random.Random(seed)
    return [" ".join(rng.choices(words, k=20)) for _ in range(count)]


def write(name, texts):
    Path(name).write_text("".join(json.dumps({"text": text}) + "\n" for text in texts))
    return name


def load(**files):
    return load_splits(
        DataSection(**{role: write(f"{role}.jsonl", texts) for role, texts in files.items()}), "document", 0
    )


def test_rows_of_one_source_are_not_told_apart_and_those_of_another_are():
    train, own = make_texts(1, 300), make_texts(2, 200)
    other = [f"{text} dear customer" if row % 4 else text for row, text in enumerate(make_texts(3, 200))]
    splits = load(train=train, validation=own, test=other)
    findings, counts = detect_drift(splits)
    assert [(each.code, each.split) for each in findings] == [("HF381", "test")]
    assert counts["validation"]["low"] < 0.5 < counts["validation"]["high"]
    # Three rows in four have what no training row has: of these all pairs are right, and of the rest one in two.
    assert counts["test"]["auc"] == pytest.approx(0.75 + 0.25 / 2, abs=0.05)
    assert counts["test"].keys() == {"auc", "low", "high", "train_rows", "other_rows"}
    assert "customer" not in repr(findings)
    assert "of 100 pairs" in findings[0].what
    shown, counts = detect_drift(splits, show_data=True)
    assert {"customer", "dear"} <= set(counts["test"]["words"])
    assert "'customer'" in shown[0].what


def test_the_interval_holds_one_half_where_both_are_of_one_source():
    measured = [measure_drift(make_texts(2 * seed, 60), make_texts(2 * seed + 1, 60)) for seed in range(20)]
    assert sum(each.low <= 0.5 <= each.high for each in measured) >= 17
    always_right = measure_drift(["yes"] * 100, ["no"] * 100)
    assert always_right.auc == 1
    # What was counted is within, though no classifier is known to be always right.
    assert 0.9 < always_right.low < 0.98 < always_right.high == 1


def test_rows_that_will_be_used_are_held_against_the_training_rows():
    splits = load(train=make_texts(1, 100))
    write("used.jsonl", make_texts(2, 100, WORDS[:20]))
    findings, counts = detect_drift(splits, against=(read_against("used.jsonl"), "used.jsonl"))
    assert findings[0].what.startswith("rows of used.jsonl: a classifier tells them from training rows in ")
    assert counts.keys() == {"used.jsonl"}


def test_of_a_few_rows_and_of_rows_without_words_nothing_is_said():
    assert detect_drift(load(train=make_texts(1, 100), test=make_texts(2, 10, WORDS[:5]))) == ([], {})
    assert measure_drift(["..."] * 60, ["!"] * 60) is None
    assert measure_drift(["我们去学校"] * 60, ["他们回家了"] * 60).auc == 1


def test_training_rows_that_share_text_with_a_benchmark_are_named_in_pairs():
    train, bench = make_texts(1, 40), make_texts(2, 20)
    train[7], train[9] = bench[3], "so " + " ".join(bench[5].split()[2:15])
    train[11] = " ".join(bench[6].split()[2:14])  # of 12 words
    train[13] = bench[3]
    write("bench.jsonl", bench)
    findings, counts = detect_benchmark_overlap(load(train=train), read_against("bench.jsonl"), "bench.jsonl")
    assert counts == {"rows": 20, "shared": 2, "train_rows": 3}
    assert [(each.code, each.split, each.count) for each in findings] == [("HF206", "train", 3)]
    lines = [(8, 4), (10, 6), (14, 4)]
    assert findings[0].places == tuple(
        place for row, other in lines for place in (Place("train.jsonl", row), Place("bench.jsonl", other))
    )
    assert findings[0].what.startswith("2 of 20 rows of bench.jsonl are in the training rows")


def test_a_benchmark_of_another_format_is_compared_by_its_words():
    train = make_texts(1, 10)
    rows = [{"question": text, "answer": "x"} for text in [*make_texts(2, 3), train[4]]]
    Path("qa.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    _, counts = detect_benchmark_overlap(load(train=train), read_against("qa.jsonl"), "qa.jsonl")
    assert counts == {"rows": 4, "shared": 1, "train_rows": 1}
    Path("labelled.jsonl").write_text(json.dumps({"text": train[2], "label": "a"}) + "\n")
    _, counts = detect_benchmark_overlap(load(train=train), read_against("labelled.jsonl"), "labelled.jsonl")
    assert counts == {"rows": 1, "shared": 1, "train_rows": 1}


def test_a_benchmark_that_is_not_there_is_one_message():
    with pytest.raises(DataError) as refused:
        read_against("nowhere.jsonl")
    assert len(refused.value.problems) == 1
    assert "nowhere.jsonl" in str(refused.value)
