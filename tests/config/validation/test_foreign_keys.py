"""What users of other tools type, row by row through the check of `hf-finetune train`."""

from __future__ import annotations

import re
from pathlib import Path
from typing import get_args

import pytest
from config.run_files import VALID, VALID_CLASSIFICATION, VALID_LORA, VALID_SFT

from hf_finetune.cli.launcher import launch
from hf_finetune.config.reading.deprecated import REFUSED, RENAMED, SFT_RENAMED, SFT_REPLACED
from hf_finetune.config.sections import RecipeName
from hf_finetune.config.validation.foreign_keys import SECTIONS, foreign_rows
from hf_finetune.config.validation.known_keys import KnownKeys
from hf_finetune.config.validation.run_file import list_section_keys
from hf_finetune.errors import ConfigError, Problem

ROOT = Path(__file__).resolve().parents[3]
KNOWN = {recipe: KnownKeys(recipe, list_section_keys(recipe)) for recipe in get_args(RecipeName)}
ROWS = foreign_rows("lora")
SAID = {*REFUSED, *RENAMED, *SFT_RENAMED, *SFT_REPLACED}  # in the section train these have an answer of their own
KEY = re.compile(r"\b(?:model|data|train|lora|eval|hub|card)\.[a-z_0-9.]*[a-z_0-9]")


@pytest.fixture
def refusal(workspace):
    """What `hf-finetune train` says of a run file with overrides, before anything is launched."""

    def refusal(text: str, *overrides: str) -> list[Problem]:
        (workspace / "run.yaml").write_text(text, encoding="utf-8")
        with pytest.raises(ConfigError) as refused:
            launch(["run.yaml", *overrides], "cpu")
        return list(refused.value.problems)

    return refusal


def say(ours: str) -> str:
    return ours if " " in ours else f"did you mean {ours}?"


FLAT = [row for row in ROWS if "." not in row]
IN_SECTIONS = [row for row in ROWS if "." in row and not row.startswith("data.train.")]
IN_SOURCES = [row for row in ROWS if row.startswith("data.train.")]


def test_every_row_is_said_by_the_check_of_train_at_the_top_of_a_file(refusal):
    found = refusal(VALID_LORA + "".join(f"{row}: 1\n" for row in FLAT))
    assert {problem.key: problem.remedy for problem in found} == {row: say(ROWS[row]) for row in FLAT}
    assert [problem.line for problem in found] == [*range(9, 9 + len(FLAT))]


def test_every_row_is_said_on_the_command_line_and_in_a_section(refusal):
    names = [row for row in FLAT if not KNOWN["lora"].contains(f"train.{row}") and f"train.{row}" not in SAID]
    found = refusal(VALID_LORA, *(f"train.{row}=1" for row in names))
    assert {problem.key: problem.remedy for problem in found} == {
        f"train.{row}": say(ROWS.get(f"train.{row}", ROWS[row])) for row in names
    }
    assert {problem.path for problem in found} == {"command line"}


def test_every_row_of_a_section_is_said_there(refusal):
    written = VALID_LORA + "hub: {repo_id: a/b}\n"
    found = {each.key: each.remedy for each in refusal(written, *(f"{row}=1" for row in IN_SECTIONS))}
    for row in IN_SECTIONS:
        assert found[row] == say(ROWS[row])
    named = ", ".join(f"{row.rpartition('.')[2]}: 1" for row in IN_SOURCES)
    sources = refusal(VALID_LORA.replace("train: train.jsonl", "train: [{path: train.jsonl, " + named + "}]"))
    assert {each.key: each.remedy for each in sources} == {
        row.replace("data.train", "data.train[0]"): say(ROWS[row]) for row in IN_SOURCES
    }


@pytest.mark.parametrize(
    ("text", "key", "meant"),
    [
        (VALID, "train.batch_size", "train.per_device_train_batch_size"),
        (VALID, "data.path", "data.train"),
        (VALID_LORA, "lora.dropout", "lora.lora_dropout"),
        (VALID, "model.dropout", "model.scratch.hidden_dropout"),
        (VALID, "max_seq_len", "data.block_size"),
        (VALID_SFT, "max_seq_len", "train.max_length"),
        (VALID_SFT, "train.cutoff_len", "train.max_length"),
        (VALID_CLASSIFICATION, "train.max_length", "data.max_length"),
        (VALID_CLASSIFICATION, "max_seq_length", "data.max_length"),
        (VALID_LORA, "lora_target", "lora.target_modules"),
        (VALID, "val_size", "data.validation_fraction"),
        (VALID, "train.grad_accum", "train.gradient_accumulation_steps"),
        (VALID, "learning_rate", "train.learning_rate"),
        (VALID, "Learning-Rate", "train.learning_rate"),
        (VALID, "evaluation_strategy", "train.eval_strategy"),
        (VALID, "seed", "train.seed"),
        (VALID, "eval.learning_rate", "train.learning_rate"),
        (VALID, "train.leraning_rate", "train.learning_rate"),
        (VALID, "leraning_rate", "train.learning_rate"),
        (VALID, "lora_targt", "lora.target_modules"),
    ],
)
def test_a_key_leads_to_what_was_meant_by_it(refusal, text, key, meant):
    for recipe_text in (text, text.replace("output_dir", "card: {}\noutput_dir")):
        (problem,) = refusal(recipe_text, f"{key}=1")
        assert problem.remedy == f"did you mean {meant}?"


@pytest.mark.parametrize("key", ["hub.datasts", "eval.lerning_rate", "card.max_stepz", "train.hidden_droput"])
def test_a_likeness_stays_in_the_section_that_was_written(refusal, key):
    problems = refusal(VALID + "hub: {repo_id: a/b}\n", f"{key}=1")
    (problem,) = [each for each in problems if each.key == key]
    named = KEY.findall(problem.remedy)
    assert all(each.startswith(key.split(".")[0]) for each in named)


def test_packing_is_answered_by_the_recipe(refusal):
    assert "always packed" in refusal(VALID, "sample_packing=true")[0].remedy
    assert refusal(VALID_SFT, "sample_packing=true")[0].remedy == "did you mean train.packing?"


@pytest.mark.parametrize("name", SECTIONS)
def test_a_section_of_another_name_is_said_with_what_stands_in_it(refusal, name):
    found = {each.key: each.remedy for each in refusal(VALID_LORA + name + ": {batch_size: 2, lora_r: 8}\n")}
    assert found[name] == f"did you mean {SECTIONS[name]}?"
    assert found.get(f"{name}.lora_r") == "did you mean lora.r?"


def test_a_dict_is_answered_as_a_file_is(workspace):
    from hf_finetune.api import train

    with pytest.raises(ConfigError) as refused:
        train({"recipe": "sft", "model": {"path": "base"}, "data": {"path": "a"}, "lr": 1, "output_dir": "x"})
    assert [(each.key, each.remedy) for each in refused.value.problems] == [
        ("data.path", "did you mean data.train?"),
        ("lr", "did you mean train.learning_rate?"),
    ]


def test_words_of_others_that_are_words_here_stay_as_they_are(load):
    assert load(VALID, "train.optim=paged_adamw_8bit").train["optim"] == "paged_adamw_8bit"


AXOLOTL = """\
base_model: base
load_in_4bit: true
adapter: qlora
datasets:
  - path: train.jsonl
    type: alpaca
sequence_len: 512
sample_packing: true
lora_r: 8
lora_target_linear: true
micro_batch_size: 2
learning_rate: 2e-4
output_dir: out
"""


def test_a_run_file_of_another_tool_is_answered_in_one_attempt(refusal):
    found = {problem.key: problem.remedy for problem in refusal(AXOLOTL)}
    assert found.pop("recipe").startswith("the recipes are continued_pretraining, ")
    assert "model" not in found  # `base_model` is answered with model.path
    assert "data" not in found  # nor `datasets` twice
    assert found == {
        "base_model": "did you mean model.path?",
        "load_in_4bit": "did you mean model.load_in_4bit?",
        "adapter": "write recipe: lora and a section lora; for qlora also model.load_in_4bit: true",
        "datasets": "did you mean data.train?",
        "sequence_len": "did you mean train.max_length?",
        "sample_packing": "did you mean train.packing?",
        "lora_r": "did you mean lora.r?",
        "lora_target_linear": "write lora.target_modules: all-linear",
        "micro_batch_size": "did you mean train.per_device_train_batch_size?",
        "learning_rate": "did you mean train.learning_rate?",
    }


def test_the_messages_on_the_page_are_the_real_ones(refusal):
    page = (ROOT / "docs" / "run-file.md").read_text(encoding="utf-8")
    shown = re.findall(r"^old\.yaml:\d+: .*$", page, flags=re.MULTILINE)
    said = {str(each) for each in refusal("base_model: base\nsequence_len: 1\nadapter: qlora\nlora_r: 8\n")}
    assert len(shown) == 3
    assert {line.replace("old.yaml", "run.yaml") for line in shown} <= said
