"""docs/corpora.md is run: its `corpus` commands write, and its `train` commands are sound runs."""

from __future__ import annotations

import email
import json
import re
import shlex
import shutil
from pathlib import Path

import pytest
from typer.testing import CliRunner

from hf_finetune.cli import app
from hf_finetune.config import load_run, read_recipe_name
from hf_finetune.data.corpora import standard_library as corpus
from hf_finetune.environment.project_files import init_project

CORPORA = tuple(f"corpora/python_{kind}.jsonl" for kind in ("source", "docstrings", "tools", "topics"))
PAGE = (Path(__file__).resolve().parent.parent / "docs" / "corpora.md").read_text(encoding="utf-8")
COMMANDS = [shlex.split(command) for command in re.findall(r"^\$ hf-finetune (.+)$", PAGE, re.MULTILINE)]


def commands(name: str) -> list[list[str]]:
    return [command for command in COMMANDS if command[0] == name]


def test_the_page_has_a_command_for_each_kind_of_corpus_and_each_run_file(project_root):
    assert {command[1] for command in commands("corpus")} == {*corpus.KINDS}
    shown = {Path(command[1]).stem for command in commands("train")}
    text = {"continued_pretraining", "char_model", "python_code", "languages", "domain_text"}
    assert shown == {*text, "python_docstrings", "python_tools", "python_topics"}


@pytest.mark.parametrize("command", commands("corpus"), ids=" ".join)
def test_a_corpus_command_writes_rows(command, tmp_path, monkeypatch):
    """From one package of the library, which is quicker than from all."""
    library = tmp_path / "library"
    shutil.copytree(Path(email.__file__).parent, library / "email", ignore=shutil.ignore_patterns("__pycache__"))
    monkeypatch.setattr(corpus.sysconfig, "get_path", lambda name: str(library))
    monkeypatch.chdir(tmp_path)
    done = CliRunner().invoke(app, [*command, "--max-bytes", "40000", "--json"])
    assert done.exit_code == 0, done.output
    facts = json.loads(done.stdout)
    assert facts["kind"] == command[1]
    assert facts["rows"] == Path(command[2]).read_bytes().count(b"\n") > 0
    assert facts["bytes"] <= 40_000


@pytest.mark.parametrize("command", commands("train"), ids=" ".join)
def test_a_train_command_is_a_sound_run_after_init(command, tmp_path, monkeypatch):
    init_project(tmp_path)
    monkeypatch.chdir(tmp_path)
    # What the reader of the page has, or has made with the command before this one.
    brought = [value for key, _, value in (word.partition("=") for word in command) if key.startswith("data.")]
    for name in (*CORPORA, *(name for name in brought if name.endswith((".txt", ".jsonl")))):
        Path(name).parent.mkdir(exist_ok=True)
        Path(name).write_text('{"text": "one"}\n')
    for made in ("runs/languages", "runs/python_code", "models/smollm2-135m", "models/minilm"):
        Path(made).mkdir(parents=True)
    recipe = read_recipe_name(command[1])
    assert load_run(command[1:], recipe).recipe == recipe
