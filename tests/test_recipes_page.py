"""docs/recipes.md: its run files are sound runs after `init`, its commands exist, its settings are taken."""

from __future__ import annotations

import re
import shlex
from pathlib import Path

import pytest
from typer.main import get_command

from hf_finetune.cli import app
from hf_finetune.config import load_run, read_recipe_name
from hf_finetune.environment.project_files import init_project

PAGE = (Path(__file__).resolve().parent.parent / "docs" / "recipes.md").read_text(encoding="utf-8")
COMMANDS = [shlex.split(command) for command in re.findall(r"^\$ hf-finetune (.+)$", PAGE, re.MULTILINE)]
VALUES = {
    "data.chat_template": "alpaca",
    "data.loss_on": "all",
    "data.max_dropped": "0.1",
    "data.too_long": "cut",
    "model.adapter": "runs/other",
    "model.load_in_4bit": "true",
    "model.path": "runs/other",
    "train.max_length": "64",
    "train.num_train_epochs": "9",
    "train.max_steps": "9",
    "train.packing": "true",
}
SETTINGS = sorted(set(re.findall(r"`((?:data|train|model)\.\w+)(?:: \w+)?`", PAGE)))


@pytest.mark.parametrize("command", COMMANDS, ids=" ".join)
def test_a_command_is_one_that_there_is(command, tmp_path, monkeypatch):
    init_project(tmp_path)
    monkeypatch.chdir(tmp_path)
    for name in ("continued_pretraining", "lora", "other"):
        Path("runs", name).mkdir(parents=True)
    if command[0] == "train":
        recipe = read_recipe_name(command[1])
        assert load_run(command[1:], recipe).recipe == recipe
    else:
        known = get_command(app).commands[command[0]]
        known.make_context(command[0], command[1:])


@pytest.mark.parametrize("setting", SETTINGS)
def test_a_setting_is_one_that_there_is(setting, tmp_path, monkeypatch):
    init_project(tmp_path)
    monkeypatch.chdir(tmp_path)
    for name in ("continued_pretraining", "lora", "other"):
        Path("runs", name).mkdir(parents=True)
    assert load_run(["recipes/configs/lora.yaml", f"{setting}={VALUES[setting]}"], "lora").recipe == "lora"
