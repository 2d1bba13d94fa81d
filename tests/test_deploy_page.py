"""docs/deploy.md says what is so: its commands and options are those of the program, its bounds those of the code."""

from __future__ import annotations

import re
import shlex
from pathlib import Path

import typer

from hf_finetune.cli import app
from hf_finetune.release.export import compare
from hf_finetune.release.export.onnx import writing
from hf_finetune.release.export.options import ROWS
from hf_finetune.release.export.targets import TARGETS

ROOT = Path(__file__).resolve().parent.parent
PAGE = (ROOT / "docs" / "deploy.md").read_text(encoding="utf-8")


def test_commands_and_options_of_the_page_are_those_of_the_program():
    commands = typer.main.get_command(app).commands
    options = {parameter.opts[0] for parameter in commands["export"].params if parameter.opts[0].startswith("--")}
    assert set(re.findall(r"^\| `(--[a-z0-9-]+)`", PAGE, re.MULTILINE)) == options
    for line in re.findall(r"^\$ hf-finetune (.+)$", PAGE, re.MULTILINE):
        name, *words = shlex.split(line)
        commands[name].make_context(name, words)


def test_every_target_has_its_words():
    row = next(line for line in PAGE.splitlines() if line.startswith("| `--to`"))
    assert set(re.findall(r"`([a-z]+)`", row)) == {*TARGETS}


def test_bounds_are_those_of_the_code():
    assert f"greedy, {compare.ANSWER_TOKENS} tokens after each prompt" in PAGE
    assert f"{ROWS} unless you say otherwise" in PAGE
    assert f"version of the operators, {writing.OPSETS[0]} to {writing.OPSETS[-1]}" in PAGE
    assert writing.IN_FLOAT32.most == compare.ROUNDING == 1e-4
    assert f"may then differ by {writing.IN_INT8.most:.0%}".replace("%", " %") in PAGE
