"""docs/evaluation.md is followed: its commands and code are run, in order, on small models of its run files."""

from __future__ import annotations

import json
import re
import shlex
from pathlib import Path

import pytest
from tuned_classifiers import SPAM, saved_backbone
from typer.testing import CliRunner

from hf_finetune.cli import app
from hf_finetune.environment.project_files import init_project

ROOT = Path(__file__).resolve().parent.parent
PAGE = (ROOT / "docs" / "evaluation.md").read_text(encoding="utf-8")
BLOCKS = re.findall(r"```(\w+)\n(.*?)```", PAGE, re.DOTALL)
QUICK = ("train.save_strategy=no", "train.eval_strategy=no", "train.load_best_model_at_end=false", "train.bf16=false")


@pytest.fixture
def project(run_recipe, tmp_path, monkeypatch) -> Path:
    """A folder after `init` and the runs that the page scores."""
    folder = tmp_path / "project"
    init_project(folder)
    base, tuned = f"{folder}/runs/continued_pretraining", f"{folder}/runs/lora"
    run_recipe("continued_pretraining", f"output_dir={base}", "train.max_steps=4", "eval.max_new_tokens=2", *QUICK)
    run_recipe(
        "lora", f"output_dir={tuned}", f"model.path={base}", "train.max_steps=2", "eval.max_new_tokens=2", *QUICK
    )
    rows = [
        {"text": f"he is {number}", "label": SPAM.names[number % 2], "language": "en", "meta": {"source": "mail"}}
        for number in range(24)
    ]
    monkeypatch.chdir(folder)
    Path("tickets.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    backbone = saved_backbone(tmp_path / "bert", "bert")
    run_recipe(
        *("classification", f"output_dir={folder}/runs/tickets", f"data.train={folder}/tickets.jsonl", *QUICK),
        *(f"model.path={backbone}", "model.scratch=null", "model.tokenizer=null", "train.max_steps=1"),
        *("train.metric_for_best_model=null", "data.stratify_by=null"),
    )
    monkeypatch.chdir(folder)
    return folder


def test_the_commands_and_the_code_of_the_page_do_what_it_says(project, capsys):
    for kind, code in BLOCKS:
        if kind == "python":
            exec(compile(code, "docs/evaluation.md", "exec"), {})
            assert "{'exact_match': 1.0}" in capsys.readouterr().out
        for command in re.findall(r"^\$ hf-finetune (.+)$", code, re.MULTILINE) if kind == "console" else []:
            done = CliRunner().invoke(app, shlex.split(command), catch_exceptions=False)
            assert done.exit_code == 0, f"{command}\n{done.output}"
    report = json.loads((project / "runs/lora/report.json").read_text())
    assert report["evaluation"]["questions"]["comparison"]["base"]
    assert json.loads((project / "runs/lora-scored/report.json").read_text())["recipe"] == "score"
