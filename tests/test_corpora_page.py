"""docs/corpora.md is run: its `corpus` commands write, its `train` commands and settings are those of a sound run."""

from __future__ import annotations

import json
import re
import shlex
from pathlib import Path

import pytest
import yaml
from typer.testing import CliRunner

from hf_finetune.cli import app
from hf_finetune.config import load_run, read_recipe_name
from hf_finetune.config.sections import DataSection
from hf_finetune.project_files import init_project

PAGE = (Path(__file__).resolve().parent.parent / "docs" / "corpora.md").read_text(encoding="utf-8")
COMMANDS = [shlex.split(command) for command in re.findall(r"^\$ hf-finetune (.+)$", PAGE, re.MULTILINE)]
SETTINGS = re.findall(r"^```yaml\n(.*?)^```", PAGE, re.MULTILINE | re.DOTALL)


@pytest.fixture
def folder(tmp_path, monkeypatch):
    """What `hf-finetune init` gives, and the files that a reader of the page has or has made."""
    init_project(tmp_path)
    monkeypatch.chdir(tmp_path)
    Path("shakespeare.txt").write_text("To be, or not to be.\n")
    for name in ("handbook.jsonl", "texts.jsonl", "corpora/python_source.jsonl"):
        Path(name).parent.mkdir(exist_ok=True)
        Path(name).write_text('{"text": "To be, or not to be."}\n')
    return tmp_path


def test_the_page_has_a_command_for_each_kind_of_corpus_and_each_project():
    assert {command[1] for command in COMMANDS if command[0] == "corpus"} == {"source", "docstrings", "modules"}
    projects = {Path(command[1]).stem for command in COMMANDS if command[0] == "train"}
    assert projects == {"char_model", "python_code", "domain_text", "languages"}


@pytest.mark.parametrize("command", [each for each in COMMANDS if each[0] == "corpus"], ids=" ".join)
def test_a_corpus_command_writes_rows(command, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    done = CliRunner().invoke(app, [*command, "--max-bytes", "40000", "--json"])
    assert done.exit_code == 0, done.output
    facts = json.loads(done.stdout)
    assert facts["kind"] == command[1]
    assert facts["rows"] == len(Path(command[2]).read_bytes().splitlines()) > 0
    assert facts["bytes"] <= 40_000


@pytest.mark.parametrize("command", [each for each in COMMANDS if each[0] == "train"], ids=" ".join)
def test_a_train_command_is_a_sound_run(command, folder):
    load_run(command[1:], read_recipe_name(command[1]))


def test_the_settings_of_the_page_are_settings_of_the_data_section():
    assert len(SETTINGS) == 2
    for block in SETTINGS:
        DataSection(**yaml.safe_load(block)["data"])
