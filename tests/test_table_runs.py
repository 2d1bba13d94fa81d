"""A CSV of 300 rows is named in a run file as it stands, of `sft` and of `classification`, and is trained on."""

from __future__ import annotations

import csv
import json
from collections.abc import Sequence
from pathlib import Path

from chat_models import saved_parrot

ROWS = 300


def write_table(path: Path, header: Sequence[str], rows: Sequence[Sequence[str]]) -> None:
    with path.open("w", encoding="utf-8", newline="") as file:
        csv.writer(file, delimiter=";").writerows([header, *rows])


def test_conversations_from_a_table_with_other_names_are_trained(run_recipe, tmp_path):
    rows = [(str(number), f"ask; {chr(97 + number % 26)}", f"b\nb {'b' * (number % 7)}") for number in range(ROWS)]
    write_table(tmp_path / "chats.csv", ("id", "query", "reply"), rows)
    report = run_recipe(
        "sft", f"data.train={tmp_path}/chats.csv", "data.columns={question: query, answer: reply}", "data.system=Hello",
        f"model.path={saved_parrot(tmp_path / 'base', {'a': 'b'})}", "train.max_steps=1", "train.eval_strategy=no",
        "data.validation_fraction=null", "eval.prompts=[]", "eval.base=false",
    )  # fmt: skip
    assert report["data"]["train"]["rows"] == ROWS
    assert report["status"] == "done"
    template = (tmp_path / "run" / "chat_template.jinja").read_text(encoding="utf-8")
    assert '"content": "Hello"' in template
    manifest = json.loads((tmp_path / "run" / "manifest.json").read_text(encoding="utf-8"))
    assert [file["path"] for file in manifest["data"]["files"]] == ["chats.csv"]


def test_texts_with_labels_from_a_table_are_trained(run_recipe, tmp_path):
    rows = [(f"{'parcel' if number % 2 else 'invoice'} {number}", "ab"[number % 2]) for number in range(ROWS)]
    write_table(tmp_path / "table.csv", ("body", "kind"), rows)
    report = run_recipe(
        "classification", f"data.train={tmp_path}/table.csv", "data.columns={text: body, label: kind}",
        "train.num_train_epochs=1", "train.max_steps=2", "train.eval_strategy=no", "train.save_strategy=no",
        "train.load_best_model_at_end=false", "data.stratify_by=kind",
    )  # fmt: skip
    assert report["data"]["train"]["rows"] + 90 == ROWS
    assert report["status"] == "done"
    config = json.loads((tmp_path / "run" / "config.json").read_text(encoding="utf-8"))
    assert config["id2label"] == {"0": "a", "1": "b"}
