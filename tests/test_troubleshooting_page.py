"""docs/troubleshooting.md quotes what the code says, and names settings and findings that there are."""

from __future__ import annotations

import ast
import re
from pathlib import Path

import pytest

from hf_finetune.config.validation.run_file import list_section_keys

ROOT = Path(__file__).resolve().parent.parent
PAGE = (ROOT / "docs" / "troubleshooting.md").read_text(encoding="utf-8")
QUOTES = [line for block in re.findall(r"```text\n(.*?)```", PAGE, re.DOTALL) for line in block.splitlines()]
RECIPES = ("continued_pretraining", "classification", "sft", "lora", "score")
SECTIONS = "model|data|train|lora|eval|hub|card"


def texts(folder: Path) -> list[str]:
    """Every constant text of the code, the fixed parts of f-strings among them, adjacent ones joined."""
    nodes = [node for path in folder.rglob("*.py") for node in ast.walk(ast.parse(path.read_text(encoding="utf-8")))]
    return [node.value for node in nodes if isinstance(node, ast.Constant) and isinstance(node.value, str)]


SAID = texts(ROOT / "hf_finetune")


def fixed_parts(quote: str) -> list[str]:
    """What stays of a message: between what differs, and on both sides of where a remedy or a place is joined on."""
    return [part.strip() for part in re.split(r"…|; |: |%[sd]", quote) if len(part.strip()) > 2]


@pytest.mark.parametrize("quote", QUOTES)
def test_a_quoted_message_is_in_the_code(quote):
    parts = fixed_parts(quote)
    assert parts
    for part in parts:
        assert any(part in said for said in SAID), part


def test_every_setting_on_the_page_is_one_of_the_run_file():
    known = {
        f"{section}.{key}" for recipe in RECIPES for section, keys in list_section_keys(recipe).items() for key in keys
    }
    named = set(re.findall(rf"`((?:{SECTIONS})\.[a-z0-9_]+)", PAGE))
    assert len(named) > 20
    assert named <= known


def test_every_finding_is_on_the_page_and_every_one_named_is_found():
    sources = (ROOT / "hf_finetune" / "reporting" / "diagnosis").glob("*.py")
    kinds = set(re.findall(r'kind="([a-z_]+)"', "".join(path.read_text(encoding="utf-8") for path in sources)))
    named = set(re.findall(r"`([a-z]+_[a-z_]+|overfitting|underfitting|plateau|divergence)`", PAGE))
    diagnosed = kinds - {"healthy"}
    assert len(diagnosed) >= 12
    assert diagnosed <= named
    assert {each for each in named if each.startswith(("learning_rate_too", "noisy", "validation_l"))} <= diagnosed


def test_commands_of_the_page_exist():
    from hf_finetune.cli import app

    commands = {command.callback.__name__ for command in app.registered_commands}
    named = set(re.findall(r"hf-finetune (\w+)", PAGE))
    assert named <= commands
