"""What `hf-finetune new` says of few rows and of files that are not as usual; each comment is true of its file."""

from __future__ import annotations

import gzip
import json
from pathlib import Path
from typing import Any

import pytest
from chat_models import saved_parrot
from preflight.odd_files import labelled, questions, sentence, write_csv, write_jsonl

from hf_finetune.config import build_run
from hf_finetune.data.early_check import check_trained_rows
from hf_finetune.preflight import NewRun, make_run_file
from hf_finetune.preflight.plan import choices, make, rows, rules


@pytest.fixture
def here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    return tmp_path


@pytest.fixture(scope="module")
def talker(tmp_path_factory: pytest.TempPathFactory) -> str:
    return saved_parrot(tmp_path_factory.mktemp("models") / "talker", {"a": "b"})


def write_new(*files: Path, model: str = "scratch", output: str = "run.yaml") -> NewRun:
    return make_run_file([str(file) for file in files], model=model, output=output)


def reasons(new: NewRun) -> dict[str, str]:
    return {each.key: each.why for each in new.settings}


def values(new: NewRun) -> dict[str, Any]:
    return {each.key: each.value for each in new.settings}


def texts(count: int) -> list[dict[str, Any]]:
    return [{"text": sentence(n)} for n in range(count)]


GZIP = "it is gzip, which its name does not say, and read as such"
PLAIN = "its name says that it is compressed, which it is not: it is read as it stands"
LATIN = "it is not UTF-8 (20 bytes) and read as Windows-1252"


def write_odd(folder: Path) -> dict[str, tuple[Path, str]]:
    """Files that are not as usual, with what is to be said of each."""
    lines = "".join(json.dumps(row) + "\n" for row in texts(20)).encode()
    table = "".join(f"{sentence(n)} caf\u00e9,{n % 2}\n" for n in range(20))
    contents = {
        "packed.jsonl": (gzip.compress(lines), GZIP),
        "plain.jsonl.gz": (lines, PLAIN),
        "packed.txt": (gzip.compress(b"one line\nanother\n" * 9), GZIP),
        "plain.txt.gz": (b"one line\nanother\n" * 9, PLAIN),
        "latin.csv": (f"text,label\n{table}".encode("cp1252"), LATIN),
    }
    found = {}
    for name, (content, said) in contents.items():
        (folder / name).write_bytes(content)
        found[name] = folder / name, said
    return found


def test_what_is_not_as_usual_about_a_file_is_said_and_written(here):
    for name, (path, said) in write_odd(here).items():
        new = write_new(path, output=f"{name}.yaml")
        assert [note.what for note in new.found.rows.notes] == [said], name
        assert said in reasons(new)["data.train"]


@pytest.mark.parametrize("name", ["packed.jsonl", "plain.jsonl.gz", "packed.txt", "latin.csv"])
def test_a_run_says_it_though_the_rows_are_in_the_cache(here, caplog, name):
    from hf_finetune.data.splitting.splits import load_splits

    path, said = write_odd(here)[name]
    recipe = "classification" if name == "latin.csv" else "continued_pretraining"
    data = {"train": str(path)} | ({"format": "lines"} if name == "packed.txt" else {})
    model = {"scratch": {"preset": "nano"}, "tokenizer": {"train": {"kind": "char"}}}
    run = build_run({"model": model, "data": data, "output_dir": "out"}, recipe)
    caplog.set_level("INFO", "hf_finetune")
    check_trained_rows(run)  # before the imports, of which nothing is said
    assert said not in caplog.text
    load_splits(run.data, "labelled" if name == "latin.csv" else "document", 42)
    assert caplog.text.count(f"{path}: {said}") == 1


def test_of_files_with_one_peculiarity_the_first_is_named_with_their_number(here):
    for number in range(3):
        write_csv(here / f"{number}.csv", [{"text": sentence(n), "label": n % 2} for n in range(20)], ";")
    new = write_new(*(here / f"{number}.csv" for number in range(3)))
    (note,) = new.found.rows.notes
    assert (note.path, note.more) == (str(here / "0.csv"), " and 2 more files")
    assert reasons(new)["data.train"].endswith("0.csv and 2 more files: columns are separated by a semicolon")


FEW = [
    (texts(1), "about 16 tokens of text teach little: the smallest model is for 17 million"),
    (labelled(12, 2), "12 different rows teach little of 2 labels: SetFit"),
    ([*labelled(12, 2), *labelled(12, 2)], "12 different rows teach little of 2 labels: SetFit"),
    (questions(20), "20 different rows teach little: OpenAI's guide to fine-tuning takes no fewer than 10"),
]


@pytest.mark.parametrize(("rows", "said"), FEW, ids=["text", "labels", "repeats", "conversations"])
def test_of_few_rows_it_is_said_that_they_teach_little_and_why(here, talker, rows, said):
    new = write_new(write_jsonl(here / "rows.jsonl", rows), model=talker if "question" in rows[0] else "scratch")
    assert new.warnings[0].startswith(said)
    assert f"# Beware: {new.warnings[0]}." in new.text.replace("\n# ", " ").replace(" Beware", "# Beware")


def test_enough_rows_are_not_warned_of(here, talker):
    assert write_new(write_jsonl(here / "chat.jsonl", questions(60)), model=talker).warnings == ()
    new = write_new(write_jsonl(here / "rows.jsonl", labelled(200, 2)), output="labels.yaml")
    assert new.warnings == ()


@pytest.mark.parametrize("count", [1, 4])
def test_where_nothing_can_be_held_out_it_is_said(here, count):
    new = write_new(write_jsonl(here / "rows.jsonl", texts(count)))
    assert new.warnings[-1] == "too few rows to hold any out: nothing is measured"
    assert values(new)["train.eval_strategy"] == "no"
    assert "the best" not in reasons(new)["train.num_train_epochs"]


def test_where_little_is_held_out_it_is_said_what_it_shows(here):
    new = write_new(write_jsonl(here / "rows.jsonl", labelled(30, 2)))
    assert new.warnings[-1] == "about 6 rows are held out, by which an accuracy is known to 40 points or better"
    assert "the best is kept" in reasons(new)["train.num_train_epochs"]


def test_the_comments_of_a_file_of_two_rows_are_true_of_it(here, talker):
    new = write_new(write_jsonl(here / "rows.jsonl", questions(2)), model=talker)
    why = reasons(new)
    assert "tens of thousands" not in why["train.num_train_epochs"]
    assert values(new)["train.per_device_train_batch_size"] == 2
    assert "a step has 2 rows" in why["train.warmup_steps"]
    assert why["train.logging_steps"] == "about 1 step a pass"


def test_passes_over_a_short_text_are_not_said_to_be_four(here):
    new = write_new(write_jsonl(here / "rows.jsonl", texts(30)))
    why = reasons(new)
    assert values(new)["train.num_train_epochs"] == rules.MOST_PASSES
    assert why["train.num_train_epochs"].startswith("the most, some ")
    assert why["model.scratch"].startswith("the smallest: tiny is for 212,000,000 tokens by 20 tokens a parameter")
    assert why["model.scratch"].endswith("llama-like, of tiny's size, is the one that other programs serve as a Llama")
    assert "up to 4 times" not in Path("run.yaml").read_text()
    assert "8,000, so that a pass has steps" in why["train.warmup_steps"]


LONG = [("answer", None), ("question", 0.2)]


@pytest.mark.parametrize(("field", "dropped"), LONG)
def test_rows_may_be_left_out_only_where_some_would_be(here, talker, monkeypatch, field, dropped):
    monkeypatch.setattr(choices, "LONGEST_ON_CPU", 128)
    many = questions(40)
    for row in many[:4]:
        row[field] = sentence(1, 200)
    new = write_new(write_jsonl(here / "rows.jsonl", many), model=talker)
    assert values(new)["data.too_long"] == "cut"
    assert values(new).get("data.max_dropped") == dropped
    if dropped:
        assert "as 10.0% of the rows have" in reasons(new)["data.max_dropped"]


def test_lengths_of_a_sample_are_said_to_be_of_one(here, talker, monkeypatch):
    path = write_jsonl(here / "rows.jsonl", questions(60))
    assert "tokens, measured: half" in reasons(write_new(path, model=talker))["train.max_length"]
    monkeypatch.setattr(rows, "SAMPLED", 20)
    new = write_new(path, model=talker, output="sampled.yaml")
    assert "tokens, measured of a sample of 20 of 60 rows: half" in reasons(new)["train.max_length"]
    assert new.as_dict()["found"]["tokens"]["sampled"] == 20


def test_of_more_languages_than_are_named_it_is_said_that_there_are_more(here, monkeypatch):
    monkeypatch.setattr(make, "find_languages", lambda _: dict.fromkeys(("en", "de", "fr", "es", "it", "pt"), 1 / 6))
    assert "languages: en 17%, de 17%, fr 17%, es 17%, it 17%, \u2026." in write_new(
        write_jsonl(here / "rows.jsonl", texts(20))
    ).text.replace("\n# ", " ")


def test_one_of_each_is_said_in_the_singular(here, talker):
    many = [*questions(60), {"question": "torn"}]
    new = write_new(write_jsonl(here / "rows.jsonl", [*many, many[0]]), model=talker)
    why = reasons(new)
    assert why["data.train"] == "61 rows, 1 of them a repeat"
    assert why["data.on_bad_line"].startswith("1 row is rejected: ")
