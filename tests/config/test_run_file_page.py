"""The reader's page says every setting, and its examples load."""

from __future__ import annotations

import re
import shlex

import pytest
import yaml
from config.run_files import VALID

from hf_finetune.config.reading.deprecated import PRETRAINING_RENAMED, RENAMED, SFT_RENAMED, SFT_REPLACED
from hf_finetune.config.validation.hf_settings import load_table
from hf_finetune.config.validation.run_file import list_section_keys

MISTAKEN = """\
recipe: continued_pretraining
model:
  scratch: {preset: nano}
  tokenizer: {train: {kind: char}}
data: {train: train.jsonl}
train:
  learing_rate: 1e-3
  bf16: true
  warmup_ratio: 1.0
output_dir: runs/first
"""


@pytest.fixture
def page(project_root) -> str:
    return (project_root / "docs" / "run-file.md").read_text(encoding="utf-8")


@pytest.fixture
def page_inputs(workspace) -> None:
    for name in ("my_text.jsonl", "my_other_text.jsonl", "my_chats.jsonl", "my_tickets.jsonl"):
        (workspace / name).write_text('{"text": "one"}\n', encoding="utf-8")


def blocks(page: str, language: str) -> list[str]:
    return re.findall(rf"```{language}\n(.*?)```", page, flags=re.DOTALL)


@pytest.mark.usefixtures("page_inputs")
def test_every_example_loads(page, load):
    examples = blocks(page, "yaml")
    assert len(examples) >= 3
    for example in examples:
        values = yaml.safe_load(example)
        load(example if "recipe" in values else yaml.safe_dump(yaml.safe_load(VALID) | values))


def test_the_overrides_on_the_page_apply(page, load):
    (command,) = blocks(page, "bash")
    overrides = shlex.split(command)[4:]
    run = load(VALID, *overrides)
    assert (run.train["max_steps"], run.eval.prompts, run.model.scratch.hidden_size) == (50, ["def ", "class "], 192)


def test_the_messages_on_the_page_are_the_real_ones(page, problems):
    text, *_ = blocks(page, "text")
    assert "\n".join(str(problem) for problem in problems(MISTAKEN)) == text.strip()


def test_every_setting_is_on_the_page(page):
    for section, keys in list_section_keys("continued_pretraining").items():
        if section in ("train", "lora", "hub"):
            continue
        for key in keys - {"lora", "hub"}:
            full = f"{section}.{key}" if section else key
            assert re.search(rf"`(\w+\.)*({re.escape(full)}|{key})`", page), full


def test_every_translated_name_is_on_the_page(page):
    for old, renamed in (RENAMED | PRETRAINING_RENAMED).items():
        assert f"`{old}`" in page
        assert f"`{renamed.new}`" in page
    for old, renamed in (SFT_RENAMED | SFT_REPLACED).items():
        assert re.search(rf"`{old}(: \w+)?`", page), old
        assert re.search(rf"`{renamed.new}(: \w+)?`", page), renamed.new


def test_every_setting_of_sftconfig_is_on_the_page(page):
    for name in load_table()["SFTConfig"].keys() - load_table()["TrainingArguments"].keys() - {"trust_remote_code"}:
        assert re.search(rf"`(train\.)?{name}(: \w+)?`", page), name
