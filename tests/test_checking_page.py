"""docs/checking.md: its commands are run on a tokenizer and a run file, and its example is what they print."""

from __future__ import annotations

import json
import re
import shlex
from pathlib import Path

import pytest
import yaml
from chat_models import talking_tokenizer
from typer.testing import CliRunner

from hf_finetune.cli import app

PAGE = (Path(__file__).resolve().parent.parent / "docs" / "checking.md").read_text(encoding="utf-8")
COMMANDS = re.findall(r"^\$ hf-finetune (.*)", PAGE, re.MULTILINE)


@pytest.fixture
def folder(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    talking_tokenizer().save_pretrained("runs/mine")
    answers = (("one", "two"), ("three", "a long answer of many words"))
    rows = [
        {"messages": [{"role": "user", "content": asked}, {"role": "assistant", "content": said}]}
        for asked, said in answers
    ]
    Path("rows.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    scratch = {"hidden_size": 16, "num_hidden_layers": 1, "num_attention_heads": 2}
    run = {
        "recipe": "sft",
        "model": {"scratch": scratch, "tokenizer": "runs/mine"},
        "data": {"train": "rows.jsonl"},
        "output_dir": "runs/new",
    }
    Path("run.yaml").write_text(yaml.safe_dump(run))


def test_its_commands_do_what_is_said(folder):
    assert len(COMMANDS) == 12
    shown = {}
    for command in COMMANDS:
        done = CliRunner().invoke(app, shlex.split(command), catch_exceptions=False)
        assert done.exit_code == 0, command
        shown[command] = done.stdout
    example = re.search(r"```text\n(.*?)```", PAGE, re.DOTALL)[1]
    assert example in shown["tokens run.yaml rows.jsonl:1"]
    assert "of them trained, " in shown[COMMANDS[9]]
    assert " cut off" in shown[COMMANDS[9]]
    assert "--- rows.jsonl:1 ---" in shown[COMMANDS[10]]
    assert 'title="id ' in Path("row.html").read_text(encoding="utf-8")
