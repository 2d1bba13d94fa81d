"""Where one place of the code refuses several kinds of mistakes, each has its own code."""

from __future__ import annotations

import pytest
from config.run_files import VALID, VALID_CLASSIFICATION

from hf_finetune.config import read_recipe_name
from hf_finetune.errors import ConfigError

NUMBERS = "data={train: train.jsonl, validation: train.jsonl, task: regression}"


@pytest.mark.parametrize(
    ("code", "override"),
    [
        ("HF602", "train.max_step=5"),
        ("HF603", "train.max_steps=five"),
        ("HF603", "train.learning_rate=0"),
        ("HF603", "train.learning_rate=.inf"),
        ("HF603", "data.train=''"),
        ("HF604", "train.eval_strategy=step"),
        ("HF605", "model.tokenizer=null"),
        ("HF605", "output_dir=null"),
        ("HF619", 'train.run_name="two\\nlines"'),
        ("HF610", "model.scratch={preset: nano"),
        ("HF613", f"data.columns={'[' * 60}{']' * 60}"),
        ("HF626", "output_dir=~nobody/runs"),
        ("HF626", f"output_dir={'n' * 300}"),
        ("HF690", "output_dir=."),
        ("HF691", "output_dir=base"),
        ("HF701", "output_dir=train.jsonl"),
    ],
)
def test_a_mistake_has_the_code_of_its_kind(only_problem, code, override):
    assert only_problem(VALID, override).code == code


@pytest.mark.parametrize(
    ("code", "text", "override"),
    [
        ("HF608", VALID, "data.task=regression"),
        ("HF622", VALID_CLASSIFICATION + "eval: {threshold_metric: f1_macro}\n", NUMBERS),
        ("HF608", VALID_CLASSIFICATION, "eval.swaps=[gender]"),
    ],
)
def test_a_setting_that_is_not_read_has_the_code_of_why(problems, code, text, override):
    assert {problem.code for problem in problems(text, override)} >= {code}


@pytest.mark.parametrize(("code", "written"), [("HF605", ""), ("HF604", "recipe: sfft\n")])
def test_a_recipe_that_is_missing_is_another_mistake_than_one_that_is_not_known(workspace, code, written):
    (workspace / "run.yaml").write_text(VALID.replace("recipe: continued_pretraining\n", written), encoding="utf-8")
    with pytest.raises(ConfigError) as refused:
        read_recipe_name("run.yaml")
    assert [problem.code for problem in refused.value.problems] == [code]


def test_a_note_about_a_name_has_a_code_behind_it(load, caplog):
    load(VALID.replace("max_steps: 5", "max_steps: 5\n  evaluation_strategy: 'no'"))
    assert [record.code for record in caplog.records] == ["HF616"]
    assert not any("HF616" in record.getMessage() for record in caplog.records)  # the log's own format adds it
