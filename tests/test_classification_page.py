"""docs/classification.md is followed: its code and commands are run in order on a CSV file of the template's rows."""

from __future__ import annotations

import csv
import json
import re
import subprocess
from pathlib import Path

import pytest
import yaml

from hf_finetune.config import dump_dict, load_run
from hf_finetune.environment.project_files import init_project

ROOT = Path(__file__).resolve().parent.parent
PAGE = (ROOT / "docs" / "classification.md").read_text(encoding="utf-8")
BLOCKS = re.findall(r"```(\w+)\n(.*?)```", PAGE, re.DOTALL)
QUICK = " train.max_steps=2 train.eval_strategy=no train.save_strategy=no train.load_best_model_at_end=false"
QUICK += " train.metric_for_best_model=null"
# Settings that the page names, and the like of what it says of them.
SETTINGS = [
    "data.max_length=longest_train",
    "data.balance=weights",
    "data.balance=focal",
    "data.balance=oversample",
    "data.balance={billing: 3, account: 1, shipping: 1, technical: 1}",
    "data.task=regression",
    "eval.threshold_metric=f1_macro",
    "eval.show_data=true",
]


def test_the_page_leads_from_a_csv_file_to_predictions(tmp_path, monkeypatch, preloaded):
    init_project(tmp_path)
    monkeypatch.chdir(tmp_path)
    rows = [json.loads(line) for line in Path("data_templates/labelled.jsonl").read_text().splitlines()]
    with open("tickets.csv", "w", newline="", encoding="utf-8") as table:
        csv.writer(table).writerows([["message", "team"], *([row["text"], row["label"]] for row in rows)])
    Path("new.jsonl").write_text('{"text": "Where is my parcel?", "id": 7}\n')
    for kind, code in BLOCKS:
        if kind == "python":
            exec(compile(code, "docs/classification.md", "exec"), {})
        for command in re.findall(r"^\$ (.+)$", code, re.MULTILINE) if kind == "console" else []:
            command += QUICK if " train " in command else ""
            done = subprocess.run(["bash", "-c", command], env=preloaded, capture_output=True, text=True, check=False)
            assert done.returncode == 0, f"{command}\n{done.stderr}"
    (labelled,) = [json.loads(line) for line in Path("labelled.jsonl").read_text().splitlines()]
    assert labelled["id"] == 7
    assert set(labelled["scores"]) == {"account", "billing", "shipping", "technical"}
    assert labelled["score"] == labelled["scores"][labelled["label"]]


@pytest.mark.parametrize("setting", SETTINGS)
def test_a_setting_of_the_page_is_one_that_there_is(setting, tmp_path, monkeypatch):
    name, _, value = setting.partition("=")
    assert name in PAGE or f"{name.split('.')[1]}: {value}" in PAGE, "the page names it"
    init_project(tmp_path)
    monkeypatch.chdir(tmp_path)
    numbers = ["data.balance=none", "data.stratify_by=null", "train.metric_for_best_model=mae"]
    more = numbers if "regression" in setting else []
    load_run(["recipes/configs/classification.yaml", setting, *more], "classification")


def test_the_sections_of_the_page_are_taken_as_they_stand(tmp_path, monkeypatch):
    init_project(tmp_path)
    monkeypatch.chdir(tmp_path)
    run = yaml.safe_load(Path("recipes/configs/classification.yaml").read_text())
    for section in (yaml.safe_load(code) for kind, code in BLOCKS if kind == "yaml"):
        Path("run.yaml").write_text(yaml.safe_dump(run | section))
        read = dump_dict(load_run(["run.yaml"], "classification"))
        assert all(read[name][key] == value for name, keys in section.items() for key, value in keys.items())


def test_every_metric_of_the_page_is_a_module():
    named = ("accuracy", "balanced accuracy", "precision", "recall", "log-loss", "expected calibration error")
    folder = ROOT / "hf_finetune" / "evaluation" / "metrics"
    for name in named:
        assert name in PAGE.replace("\n", " ")
        assert (folder / f"{re.sub('[ -]', '_', name)}.py").exists()
