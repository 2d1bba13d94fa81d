"""Rows of small files are looked at before torch is imported, and as the recipe will look at them."""

from __future__ import annotations

import json
import logging
import subprocess
import sys
from pathlib import Path

import pytest

from hf_finetune.config import build_run
from hf_finetune.data import early_check
from hf_finetune.data.early_check import check_scored_rows, check_trained_rows
from hf_finetune.errors import DataError

CLASSIFIER = {"architectures": ["BertForSequenceClassification"]}


@pytest.fixture(autouse=True)
def working_folder(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)


def write(name: str, *rows: dict) -> str:
    Path(name).write_text("".join(f"{json.dumps(row)}\n" for row in rows))
    return name


def model(config: dict) -> str:
    Path("model").mkdir()
    write("model/config.json", config)
    return "model"


def to_train(recipe: str, **data):
    run = {"model": {"path": "org/model"}, "data": data, "output_dir": "out"}
    return build_run(run | ({"lora": {"r": 4}} if recipe == "lora" else {}), recipe)


def to_score(path: str, **data):
    return build_run({"model": {"path": path}, "data": data, "output_dir": "out"}, "score")


@pytest.mark.parametrize(
    ("recipe", "row"),
    [
        ("sft", {"question": "q", "answer": ""}),
        ("lora", {"question": "q", "answer": ""}),
        ("continued_pretraining", {"text": 3}),
        ("classification", {"text": "t", "label": ""}),
    ],
)
def test_a_row_that_a_recipe_refuses_is_refused_and_nothing_else_is_said(recipe, row, caplog):
    good = [{**row, "answer": f"{n}"} if "answer" in row else {**row, "text": f"{n}"} for n in range(4)]
    good = [each | ({"label": "ab"[n % 2]} if "label" in row else {}) for n, each in enumerate(good)]
    caplog.set_level(logging.INFO)
    check_trained_rows(to_train(recipe, train=write("good.jsonl", *good)))
    with pytest.raises(DataError, match=r"bad.jsonl:5"):
        check_trained_rows(to_train(recipe, train=write("bad.jsonl", *good, row)))
    assert not caplog.records
    logging.getLogger("hf_finetune.data").warning("heard")
    assert "heard" in caplog.text


def test_labels_that_cannot_be_frozen_are_refused_too():
    rows = [{"text": f"t{n}", "label": label} for n, label in enumerate(["spam", "Spam", "ham", "ham"])]
    with pytest.raises(DataError, match="differ by case"):
        check_trained_rows(to_train("classification", train=write("rows.jsonl", *rows)))


@pytest.mark.parametrize(
    ("config", "good", "bad"),
    [
        ({"architectures": ["LlamaForCausalLM"]}, {"question": "q", "answer": "a"}, {"question": "q"}),
        ({"architectures": ["LlamaForCausalLM"]}, {"text": "a document"}, {"text": None}),
        (CLASSIFIER, {"text": "t", "label": "a"}, {"text": "t", "label": ""}),
        ({**CLASSIFIER, "problem_type": "regression"}, {"text": "t", "label": 0.5}, {"text": "t", "label": "much"}),
    ],
)
def test_rows_to_score_are_read_as_the_kind_of_model_reads_them(config, good, bad):
    path = model(config)
    check_scored_rows(to_score(path, test=write("good.jsonl", good)))
    with pytest.raises(DataError, match=r"bad.jsonl:2"):
        check_scored_rows(to_score(path, test=write("bad.jsonl", good, bad)))


def test_large_files_and_models_of_unknown_kind_are_left_to_the_recipe(monkeypatch):
    bad = write("bad.jsonl", {"question": "q", "answer": ""})
    check_scored_rows(to_score("org/model", test=bad))
    monkeypatch.setattr(early_check, "SMALL", 10)
    check_trained_rows(to_train("sft", train=bad))


@pytest.mark.parametrize("command", [["train", "run.yaml", "model.path=model"], ["score", "model", "bad.jsonl"]])
def test_a_wrong_row_ends_a_command_before_torch_is_imported(command):
    write("bad.jsonl", {"question": "q", "answer": "a"}, {"question": "q"})
    model({"architectures": ["LlamaForCausalLM"], "model_type": "llama"})
    Path("run.yaml").write_text("recipe: sft\ndata: {train: bad.jsonl}\noutput_dir: out\n")
    code = (
        "import sys; from hf_finetune.cli import app; from hf_finetune.errors import DataError\n"
        f"try: app({command!r}, standalone_mode=False)\n"
        "except DataError as refused: print(refused, 'torch' in sys.modules)"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert done.stdout.startswith("bad.jsonl:2: "), done.stderr
    assert done.stdout.endswith(" False\n")
