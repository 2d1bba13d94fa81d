"""Rows that are there twice: planted ones, and a plain count over sets of words."""

from __future__ import annotations

import json
import random
from pathlib import Path

import numpy as np
import pytest
from datasets import Dataset

from hf_finetune.config.sections import DataSection
from hf_finetune.data.reading.formats import get_features
from hf_finetune.data.splitting.splits import load_splits
from hf_finetune.preflight.detectors import near_rows
from hf_finetune.preflight.detectors.duplicates import detect_duplicates
from hf_finetune.preflight.detectors.near_rows import NEAR, SHINGLE, find_near_rows
from hf_finetune.preflight.findings import Place

WORDS = [f"{first}{second}" for first in "bdfgklmnprst" for second in ("ale", "on", "ur", "ieb", "ox", "ant", "y")]


@pytest.fixture(autouse=True)
def working_folder(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)


def make_text(rng, least=20, most=120):
    return " ".join(rng.choices(WORDS, k=rng.randint(least, most)))


def change(rng, text, share=0.05):
    words = text.split()
    for place in rng.sample(range(len(words)), max(1, round(share * len(words)))):
        words[place] = "changed"
    return " ".join(words)


def write(name, texts):
    Path(name).write_text("".join(json.dumps({"text": text}) + "\n" for text in texts))
    return name


def load(becomes="document", **files):
    return load_splits(
        DataSection(**{role: write(f"{role}.jsonl", texts) for role, texts in files.items()}), becomes, 0
    )


def test_planted_copies_and_changed_rows_are_found_and_no_other_pairs():
    rng = random.Random(5)
    train, test = ([make_text(rng) for _ in range(size)] for size in (3_000, 1_000))
    sources = rng.sample(range(len(train)), 100)
    for row, source in enumerate(sources):
        test[2 * row] = train[source] if row < 50 else change(rng, train[source])
    findings, counts = detect_duplicates(load(train=train, test=test))
    by_code = {each.code: each for each in findings}
    assert counts["test"]["copies"] == by_code["HF202"].count == 50
    assert counts["test"]["near"] == by_code["HF203"].count >= 45
    expected = [
        place
        for row in range(50)
        for place in (Place("test.jsonl", 2 * row + 1), Place("train.jsonl", sources[row] + 1))
    ]
    assert list(by_code["HF202"].places) == expected
    near = {(2 * row + 1, sources[row] + 1) for row in range(50, 100)}
    lines = [place.line for place in by_code["HF203"].places]
    assert set(zip(lines[::2], lines[1::2], strict=True)) <= near  # 0 of 900 clean rows
    assert by_code["HF202"].what == "test: 50 of 1,000 rows are copies of training rows"


def make_signs(rng, words):
    """A text without blanks, of made-up words of two to four signs and what stands between words in Japanese."""
    said = "".join(
        rng.choice(words) + rng.choice(["は", "を", "に", "の", "です。", "ました。"])
        for _ in range(rng.randint(8, 30))
    )
    return said + "\n" + rng.choice(words)


def change_signs(rng, text, share=0.05):
    signs = list(text)
    for place in rng.sample(range(len(signs)), max(1, round(share * len(signs)))):
        signs[place] = "変"
    return "".join(signs)


def test_of_text_without_blanks_between_words_as_many_are_found():
    rng = random.Random(11)
    words = [
        "".join(rng.choices("アイウエオカキクケコサシスセソ山川口日本人大学生先時間", k=rng.randint(2, 4)))
        for _ in range(400)
    ]
    train, test = ([make_signs(rng, words) for _ in range(size)] for size in (3_000, 1_000))
    sources = rng.sample(range(len(train)), 100)
    for row, source in enumerate(sources):
        test[2 * row] = train[source] if row < 50 else change_signs(rng, train[source])
    findings, counts = detect_duplicates(load(train=train, test=test))
    assert counts["test"]["copies"] == 50
    assert counts["test"]["near"] >= 45
    lines = [place.line for each in findings if each.code == "HF203" for place in each.places]
    near = {(2 * row + 1, sources[row] + 1) for row in range(50, 100)}
    assert set(zip(lines[::2], lines[1::2], strict=True)) <= near  # 0 of 900 clean rows


def table_of(texts):
    return Dataset.from_list([{"text": text} for text in texts], features=get_features("document"))


def plain_shingles(text):
    words = text.split()
    return {tuple(words[place : place + SHINGLE]) for place in range(len(words) - SHINGLE + 1)}


@pytest.mark.parametrize("words_at_once", [1_000, 2**23])
def test_pairs_are_those_of_a_plain_comparison_of_sets(monkeypatch, words_at_once):
    monkeypatch.setattr(near_rows, "_AT_ONCE", words_at_once)
    monkeypatch.setattr("hf_finetune.data.splitting.batches.ROWS_AT_ONCE", 40)
    rng = random.Random(7)
    train = [make_text(rng, 12, 60) for _ in range(300)]
    test = [change(rng, rng.choice(train), rng.uniform(0.01, 0.2)) for _ in range(100)]
    every = [np.arange(len(texts)) for texts in (test, train)]
    tables = [table_of(texts) for texts in (test, train)]
    found = find_near_rows((tables[0], every[0]), (tables[1], every[1]), np.zeros(len(test), bool))
    sets = [plain_shingles(text) for text in train]
    missed = 0
    for row, text in enumerate(test):
        own = plain_shingles(text)
        likeness = [len(own & other) / len(own | other) for other in sets]
        if (other := found.near[row]) >= 0:
            assert found.likeness[row] == pytest.approx(likeness[other])
            assert likeness[other] >= NEAR
        missed += found.near[row] < 0 and max(likeness) >= NEAR and len(own) >= near_rows._FEWEST
    assert (found.near >= 0).sum() > 40
    assert missed <= 2  # of a sketch, by chance


def test_of_two_rows_that_are_near_the_first_is_named(monkeypatch):
    monkeypatch.setattr("hf_finetune.data.splitting.batches.ROWS_AT_ONCE", 1)
    rng = random.Random(9)
    text = make_text(rng)
    train = [make_text(rng), change(rng, text), make_text(rng), text]
    found = find_near_rows((table_of([text]), np.arange(1)), (table_of(train), np.arange(4)), np.zeros(1, bool))
    assert found.near.tolist() == [1]


def test_what_many_rows_have_in_common_makes_no_pair():
    rng = random.Random(3)
    form = make_text(rng, 60, 60)
    test, train = ([f"{form} {make_text(rng, 20, 20)}" for _ in range(60)] for _ in range(2))
    train.append(change(rng, test[7]))
    findings, counts = detect_duplicates(load(train=train, test=test))
    assert counts["test"] == {"copies": 0, "near": 1, "shares_13_words": 60}
    assert [(each.code, each.count) for each in findings] == [("HF203", 1), ("HF204", 60)]
    said = "test: 60 of 60 rows share 13 words in a row with training rows (copies are not counted here)"
    assert findings[1].what == said
    assert [place.line for place in findings[0].places] == [8, 61]


def test_system_messages_make_no_pair():
    rng = random.Random(4)
    system = make_text(rng, 80, 80)

    def write_chats(name, count):
        said = [("system", system), ("user", make_text(rng, 15, 15)), ("assistant", "Yes.")]
        rows = [[*said[:1], ("user", make_text(rng, 15, 15)), *said[2:]] for _ in range(count)]
        lines = [{"messages": [{"role": role, "content": text} for role, text in row]} for row in rows]
        Path(name).write_text("".join(json.dumps(line) + "\n" for line in lines))
        return name

    data = DataSection(train=write_chats("train.jsonl", 20), test=write_chats("test.jsonl", 10))
    findings, counts = detect_duplicates(load_splits(data, "conversation", 0))
    assert findings == []
    assert counts["test"] == {"copies": 0, "near": 0, "shares_13_words": 0}


def test_repeated_training_rows_and_rows_of_both_other_splits_are_named():
    rng = random.Random(6)
    texts = [make_text(rng) for _ in range(30)]
    train = [*texts[:10], texts[3], texts[0], texts[3]]
    validation, test = texts[10:20], [*texts[20:25], texts[12], change(rng, texts[15])]
    findings, counts = detect_duplicates(load(train=train, validation=validation, test=test))
    assert [(each.code, each.split, each.count) for each in findings] == [("HF201", "train", 3), ("HF205", "test", 2)]
    assert [place.line for place in findings[0].places] == [11, 4, 12, 1, 13, 4]
    assert findings[1].places == (
        *(Place("test.jsonl", 6), Place("validation.jsonl", 3)),
        *(Place("test.jsonl", 7), Place("validation.jsonl", 6)),
    )
    assert counts["test in validation"] == {"copies": 1, "near": 1, "shares_13_words": 1}


def test_rows_that_weigh_more_are_no_duplicates():
    rng = random.Random(8)
    path = write("a.jsonl", [make_text(rng) for _ in range(10)])
    data = DataSection(train=[{"path": path, "weight": 2.5}], validation_fraction=0.2)
    findings, counts = detect_duplicates(load_splits(data, "document", 0))
    assert (findings, counts["train"]) == ([], {"repeated": 0})
