"""docs/models.md: its commands are those that there are, and its run files are sound once the models are made."""

from __future__ import annotations

import re
import shlex
from pathlib import Path

import pytest
from typer.main import get_command
from typer.testing import CliRunner

from hf_finetune.cli import app
from hf_finetune.config import load_run, read_recipe_name
from hf_finetune.environment.project_files import init_project
from hf_finetune.errors import ConfigError
from hf_finetune.models import PACKAGES

PAGE = (Path(__file__).resolve().parent.parent / "docs" / "models.md").read_text(encoding="utf-8")
COMMANDS = [shlex.split(command) for command in re.findall(r"^\$ hf-finetune (.+)$", PAGE, re.MULTILINE)]
RUN_FILES = [f"recipes/configs/{name}.yaml" for name in ("sft_smollm2", "lora_smollm2", "classification_minilm")]


@pytest.mark.parametrize("command", COMMANDS, ids=" ".join)
def test_a_command_is_one_that_there_is(command, tmp_path, monkeypatch):
    init_project(tmp_path)
    monkeypatch.chdir(tmp_path)
    for name in PACKAGES:
        Path("models", name).mkdir(parents=True)
    if command[0] == "train":
        recipe = read_recipe_name(command[1])
        assert load_run(command[1:], recipe).recipe == recipe
    else:
        get_command(app).commands[command[0]].make_context(command[0], command[1:])


def test_the_page_and_the_list_name_each_model_with_its_package():
    done = CliRunner().invoke(app, ["model", "--json"])
    assert done.exit_code == 0
    for name, package in PACKAGES.items():
        assert f"| `{name}` |" in PAGE
        assert f"`{package.wheel.requirement}`, {package.wheel.bytes / 1e6:.0f} MB" in PAGE
        assert f'"{package.wheel.requirement}"' in done.output
        assert name in CliRunner().invoke(app, ["model"]).output


@pytest.mark.parametrize("path", RUN_FILES)
def test_a_run_file_without_its_model_names_the_command_that_makes_it(path, tmp_path, monkeypatch):
    init_project(tmp_path)
    monkeypatch.chdir(tmp_path)
    with pytest.raises(ConfigError) as problem:
        load_run([path], read_recipe_name(path))
    command = re.search(r"hf-finetune model (\S+) (\S+)", Path(path).read_text())
    assert f"make it with: {command[0]}" in str(problem.value)
    assert len(str(problem.value).splitlines()) == 1
    Path(command[2]).mkdir(parents=True)
    load_run([path], read_recipe_name(path))


@pytest.mark.parametrize("path", ["minilm", "./somewhere/minilm", "models/minilm"])
def test_so_does_any_run_file(path, tmp_path, monkeypatch):
    init_project(tmp_path)
    monkeypatch.chdir(tmp_path)
    with pytest.raises(ConfigError, match=f"make it with: hf-finetune model minilm {path}"):
        load_run(["recipes/configs/classification_minilm.yaml", f"model.path={path}"], "classification")
    load_run(["recipes/configs/classification_minilm.yaml", "model.path=someone/minilm"], "classification")


def test_a_gguf_file_as_model_path_is_told_to_be_made_a_folder(tmp_path, monkeypatch):
    init_project(tmp_path)
    monkeypatch.chdir(tmp_path)
    Path("a.gguf").write_bytes(b"GGUF")
    with pytest.raises(ConfigError, match=r"hf-finetune model a\.gguf models/a"):
        load_run(["recipes/configs/lora_smollm2.yaml", "model.path=a.gguf"], "lora")


def test_the_commands_of_the_messages_run_in_one_line_each(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    with pytest.raises(ConfigError, match="the folder to make is missing; add one, such as models/minilm"):
        CliRunner().invoke(app, ["model", "minilm"], catch_exceptions=False)
