"""Rows that were trained are called so, by the records of a run and of those before it: by nothing that is pushed."""

from __future__ import annotations

import io
import json
import os
import random
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from evaluation.scoring.test_run_and_score_agree import PLAIN, QUICK, Rows, questions, save_base, say, score, write
from tuned_classifiers import saved_backbone
from typer.testing import CliRunner

from hf_finetune.cli import app
from hf_finetune.config import DataSection
from hf_finetune.data.splitting.seen_rows import find_seen_rows, make_row_prints
from hf_finetune.data.splitting.splits import load_splits
from hf_finetune.data.splitting.train_prints import MAX_NGRAMS
from hf_finetune.evaluation import PredictionOptions, predict_file
from hf_finetune.release.hub.files import plan_files
from hf_finetune.release.hub.redaction import redact_files
from hf_finetune.release.hub.search.places import check_secrets
from hf_finetune.release.merge import merge_adapter
from hf_finetune.row_prints import RowPrints, read_row_prints, write_row_prints

KEY = bytes(range(32))
LONG = "In the valley of the river there once stood a mill whose wheel had not turned for thirty years or more."


def conversations(first: int, count: int) -> Rows:
    return questions(lambda n: 4 + n % 3)(first, count)


def train(run_recipe, recipe: str, base: str | Path, rows: str, folder: Path, *settings: str) -> Path:
    given = (f"model.path={base}", f"data.train={rows}", f"output_dir={folder}")
    quick = [each for each in QUICK if recipe != "spam" or "eval." not in each]
    run_recipe(recipe, *given, *quick, *PLAIN, "train.save_strategy=no", *settings)
    return folder


@pytest.fixture
def base(tmp_path) -> str:
    return save_base(tmp_path / "base", "bpe")


def test_conversations_that_were_trained_are_counted_and_named(run_recipe, tmp_path, base, capsys, monkeypatch):
    monkeypatch.chdir(tmp_path)
    trained = [*conversations(0, 9), {"question": "What stood there?", "answer": LONG}]
    run = train(run_recipe, "sft", base, write(tmp_path / "train.jsonl", trained), tmp_path / "run")
    copied = {"question": trained[2]["question"].upper(), "answer": f"  {trained[2]['answer']}"}
    near = {"question": "And then?", "answer": f"They say that i{LONG[1:]}"}
    rows = write(tmp_path / "rows.jsonl", [*conversations(50, 5), trained[0], copied, near])
    monkeypatch.chdir(tmp_path)
    capsys.readouterr()
    assert CliRunner().invoke(app, ["score", "run", rows, "--record", "again", "--generate-rows", "0"]).exit_code == 0
    found = json.loads((run / "report.json").read_text())["evaluation"]["again"]["seen_rows"]
    words = found.pop("words")
    assert found == {
        "rows": 8,
        "copies": 2,
        "shares_13_words": 1,
        "runs": ["run"],
        "places": ["rows.jsonl:6", "rows.jsonl:7", "rows.jsonl:8"],
    }
    said = "2 of 8 rows were in the training rows of run, and 1 more share 13 words in a row with them"
    assert words == [f"{said}: the figures are not of new rows"]
    assert said in (run / "report.html").read_text()
    assert "rows.jsonl:7" in (run / "report.html").read_text()
    assert f"again: {said}" in (run / "README.md").read_text()
    assert "rows.jsonl:" not in (run / "README.md").read_text(), "of a public file it would tell which"
    files = plan_files(run)
    sent = {file.name: file.content for file in redact_files(run, files, check_secrets(files))}
    assert b"rows.jsonl:" not in sent["report.json"] + sent["report.html"]
    new = score(run, write(tmp_path / "new.jsonl", conversations(70, 5)))["seen_rows"]
    assert (new["copies"], new["shares_13_words"], new["words"]) == (0, 0, [])


def test_documents_and_the_runs_before_are_looked_at(run_recipe, tmp_path, base):
    first = write(tmp_path / "documents.jsonl", [{"text": say(n, 9)} for n in range(9)])
    named = ("model.scratch=null", "model.tokenizer=null", "data.block_size=32", "train.max_steps=1")
    pretrained = train(run_recipe, "continued_pretraining", base, first, tmp_path / "pretrained", *named)
    again = write(tmp_path / "some.jsonl", [{"text": f" {say(3, 9)}\n"}, {"text": say(99, 9)}])
    assert score(pretrained, again)["seen_rows"]["places"] == [f"{Path(again).name}:1"]
    chats = write(tmp_path / "chats.jsonl", conversations(0, 6))
    tuned = train(run_recipe, "sft", pretrained, chats, tmp_path / "tuned")
    more = write(tmp_path / "more.jsonl", conversations(20, 6))
    settings = ("lora.r=2", "train.learning_rate=0.001")
    adapter = train(run_recipe, "lora", tuned, more, tmp_path / "adapter", *settings)
    merged = Path(merge_adapter(str(adapter), str(tmp_path / "merged")).output)
    asked = write(tmp_path / "asked.jsonl", [*conversations(50, 2), conversations(0, 6)[2], conversations(20, 6)[1]])
    for model in (adapter, merged):
        found = score(model, asked)["seen_rows"]
        assert sorted(Path(name).name for name in found["runs"]) == ["adapter", "tuned"]
        assert found["places"] == [f"{Path(asked).name}:3", f"{Path(asked).name}:4"]
        of_first = score(model, again)["seen_rows"]
        assert [Path(name).name for name in of_first["runs"]] == ["pretrained"], "two runs before"
    # It is passed on, and whoever has it could test for a row.
    assert not list(merged.glob("row_prints*"))
    # A record that should be there and is not: unknown, and never "none".
    (tuned / "row_prints.npz").unlink()
    found = score(adapter, asked)["seen_rows"]
    assert found["places"] == [f"{Path(asked).name}:4"]
    assert found["unknown"] == ["tuned"]
    assert "rows were in the training rows of tuned is not known" in found["words"][-1]
    # An export goes on without it.
    (tuned / "export.json").write_text("{}")
    assert score(tuned, asked)["seen_rows"]["unknown"] == ["tuned"]
    (tuned / "export.json").unlink()
    adapter.rename(tmp_path / "elsewhere")
    assert "adapter" in score(merged, asked)["seen_rows"]["unknown"]
    assert "seen_rows" not in score(Path(base), asked), "no run of ours: nothing is known, and nothing said"


def test_a_classifier_says_it_of_scored_and_of_labeled_rows(run_recipe, tmp_path, capsys):
    texts = [{"text": say(n, 5), "label": "ab"[n % 2]} for n in range(12)]
    backbone = saved_backbone(tmp_path / "backbone", "bert")
    settings = ("data.test_fraction=null", "data.stratify_by=null", "train.max_steps=1")
    trained = write(tmp_path / "texts.jsonl", texts)
    run = train(run_recipe, "spam", backbone, trained, tmp_path / "run", *settings)
    new = [{"text": say(50 + n, 5), "label": "a"} for n in range(4)]
    rows = write(tmp_path / "rows.jsonl", [*new, texts[4] | {"label": "b"}, texts[7]])
    values = {"model": {"path": str(run)}, "data": {"test": rows}, "output_dir": "?"}
    found = score_classifier(values)["seen_rows"]
    assert (found["rows"], found["copies"]) == (6, 2), "whatever the label"
    assert found["places"] == ["rows.jsonl:5", "rows.jsonl:6"]
    unlabelled = write(tmp_path / "plain.jsonl", [{"text": row["text"]} for row in (*new, texts[4])])
    stats = predict_file(str(run), unlabelled, io.BytesIO(), PredictionOptions())
    assert (stats.seen_rows["copies"], stats.seen_rows["places"]) == (1, [f"{Path(unlabelled).name}:5"])
    assert "1 of 5 rows were in the training rows of run" in capsys.readouterr().err


def score_classifier(values: dict[str, Any]) -> dict[str, Any]:
    from hf_finetune.config import build_run
    from hf_finetune.evaluation.scoring import load_scored_rows, score_model

    run = build_run(values, "score")
    return score_model(run, load_scored_rows(run)).evaluation


def test_a_guessed_row_is_confirmed_by_nothing_that_is_pushed(run_recipe, tmp_path, base):
    secret = {"question": "What is the PIN of alice?", "answer": "It is 4711."}
    rows = write(tmp_path / "train.jsonl", [*conversations(0, 9), secret])
    run = train(run_recipe, "sft", base, rows, tmp_path / "run", "data.validation_fraction=0.2")
    guess = load_splits(DataSection(train=write(tmp_path / "guess.jsonl", [secret])), "conversation", 0)
    (tried,) = guess.format_row_hashes("train")
    planned = plan_files(run)
    assert "row_prints.npz" not in {file.name for file in planned}
    assert not [file.name for file in planned if tried.encode() in (file.content or b"")]
    manifest = json.loads((run / "manifest.json").read_text())
    assert set(manifest["data"]["splits"]["train"]) == {"rows", "distinct", "sha256"}
    assert (run / "row_prints.npz").stat().st_mode & 0o077 == 0
    # A folder of an older version has the hashes in its manifest: they are not sent.
    manifest["data"]["splits"]["train"]["row_hashes"] = tried * 8
    (run / "manifest.json").write_text(json.dumps(manifest))
    files = plan_files(run)
    sent = {file.name: file.content for file in redact_files(run, files, check_secrets(files))}
    assert tried.encode() not in b"".join(content or b"" for content in sent.values())
    assert b"row_hashes" not in sent["manifest.json"]
    # It can be asked still, for rows that are whole copies.
    (run / "row_prints.npz").unlink()
    found = score(run, str(tmp_path / "guess.jsonl"))["seen_rows"]
    assert (found["copies"], found["places"]) == (1, ["guess.jsonl:1"])


def test_prints_are_small_depend_on_the_key_and_find_what_brute_force_finds(tmp_path):
    random = np.random.default_rng(0)
    words = [f"w{n}" for n in range(40)]
    texts = [" ".join(random.choice(words, size=random.integers(5, 60))) for _ in range(400)]
    known, asked = texts[:300], [*texts[250:], *(f"new {text[20:]}" for text in texts[:50])]
    splits = load_splits(DataSection(train=write(tmp_path / "a.jsonl", [{"text": t} for t in known])), "document", 0)
    rows = load_splits(DataSection(train=write(tmp_path / "b.jsonl", [{"text": t} for t in asked])), "document", 0)
    prints = make_row_prints(splits, KEY)
    found = find_seen_rows(rows.rows["train"], prints)
    assert found.copies.tolist() == [text in known for text in asked]
    grams = {gram for text in known for gram in thirteens(text)}
    assert found.shares_ngram.tolist() == [not grams.isdisjoint(thirteens(text)) for text in asked]
    assert len(prints.texts) == len(known)
    assert len(prints.ngrams) == len(grams) < MAX_NGRAMS
    other = make_row_prints(splits, KEY[::-1])
    assert not set(other.texts.tolist()) & set(prints.texts.tolist())
    assert not set(other.ngrams.tolist()) & set(prints.ngrams.tolist())


def thirteens(text: str) -> set[tuple[str, ...]]:
    words = text.split()
    return {tuple(words[start : start + 13]) for start in range(len(words) - 12)}


def test_of_a_large_set_a_part_of_the_ngrams_is_kept_and_finds_a_shared_passage(tmp_path, monkeypatch):
    monkeypatch.setattr("hf_finetune.data.splitting.train_prints.MAX_NGRAMS", 500)
    book = [" ".join(f"w{(place * 7919 + row * 104729) % 99991}" for place in range(500)) for row in range(20)]
    splits = load_splits(DataSection(train=write(tmp_path / "a.jsonl", [{"text": t} for t in book])), "document", 0)
    prints = make_row_prints(splits, KEY)
    assert len(prints.ngrams) == 500
    shared = [f"Said he: {' '.join(text.split()[100:400])}" for text in book]
    new = [" ".join(f"v{place * row}" for place in range(300)) for row in range(20)]
    rows = load_splits(
        DataSection(train=write(tmp_path / "b.jsonl", [{"text": t} for t in (*shared, *new)])), "document", 0
    )
    found = find_seen_rows(rows.rows["train"], prints)
    assert found.shares_ngram.tolist() == [True] * 20 + [False] * 20


@pytest.mark.parametrize("damage", ["torn", "compressed", "of numbers", "without a key", "a short key", "a pipe"])
def test_prints_that_cannot_be_read_are_said_and_are_none(tmp_path, caplog, damage):
    arrays = {"key": np.frombuffer(KEY, np.uint8), "texts": np.arange(3, dtype=np.uint64)}
    arrays["ngrams"] = arrays["texts"].astype(float) if damage == "of numbers" else arrays["texts"]
    if damage == "without a key":
        del arrays["key"]
    elif damage == "a short key":
        arrays["key"] = arrays["key"][:5]
    path = tmp_path / "row_prints.npz"
    (np.savez_compressed if damage == "compressed" else np.savez)(path, **arrays)
    if damage == "torn":
        path.write_bytes(path.read_bytes()[:-30])
    elif damage == "a pipe":
        path.unlink()
        os.mkfifo(path)
    assert read_row_prints(tmp_path) is None
    assert "row_prints.npz holds no prints of rows that can be read (" in caplog.text
    assert "put it back as the run wrote it, or go on with the run, which writes it anew" in caplog.text


def test_prints_with_any_byte_changed_are_read_or_said_to_be_none(tmp_path):
    """Headers of a zip file, and of arrays, have no checksum: 500 changes of one to four bytes."""
    hashes = np.arange(3, dtype=np.uint64)
    write_row_prints(tmp_path, RowPrints(KEY, hashes, hashes, {"test": hashes}))
    path, draw = tmp_path / "row_prints.npz", random.Random(0)
    content = path.read_bytes()
    for _ in range(500):
        changed = bytearray(content)
        for _ in range(draw.randint(1, 4)):
            changed[draw.randrange(len(changed))] = draw.choice((0, 1, 0x7F, 0xFF, draw.randrange(256)))
        path.write_bytes(changed[: draw.choice((len(changed), len(changed), draw.randrange(len(changed))))])
        found = read_row_prints(tmp_path)
        assert found is None or (len(found.key), found.texts.ndim) == (32, 1)
