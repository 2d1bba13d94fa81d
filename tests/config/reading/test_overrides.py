from __future__ import annotations

import pytest
from config.run_files import VALID

from hf_finetune.config import load_run
from hf_finetune.errors import ConfigError


def test_an_override_replaces_adds_and_reaches_any_depth(load):
    run = load(
        VALID,
        "train.max_steps=7",
        "train.learning_rate=3e-4",
        "train.eval_strategy=no",
        "model.scratch.hidden_size=64",
        "model.tokenizer={train: {kind: char}}",
        'eval.prompts=["def ", "class "]',
        "data.train=*.jsonl",
        "output_dir=runs/a=b",
    )
    assert run.train == {"max_steps": 7, "learning_rate": 3e-4, "eval_strategy": "no"}
    assert run.model.scratch.hidden_size == 64
    assert run.model.tokenizer.train.kind == "char"
    assert run.eval.prompts == ["def ", "class "]
    assert run.data.train == "*.jsonl"
    assert run.output_dir == "runs/a=b"


def test_an_override_can_take_a_setting_out(load):
    run = load(VALID, "model.scratch=null", "model.tokenizer=", "model.path=base")
    assert (run.model.path, run.model.scratch, run.model.tokenizer) == ("base", None, None)


def test_a_problem_of_an_override_says_command_line_and_not_the_line_it_replaced(only_problem):
    problem = only_problem(VALID, "train.max_steps=many")
    assert (problem.path, problem.line, problem.key) == ("command line", None, "train.max_steps")
    problem = only_problem(VALID, "model.scratch={preset: nan0}")
    assert (problem.path, problem.line, problem.key) == ("command line", None, "model.scratch.preset")


def test_an_override_mends_what_the_file_has_wrong(load):
    assert load(VALID.replace("max_steps: 5", "max_steps: many"), "train.max_steps=3").train == {"max_steps": 3}


@pytest.mark.parametrize(
    ("argument", "what"),
    [
        ("--train.max_steps=3", "--train.max_steps is a flag; settings have no flags here"),
        ("-v", "-v is a flag"),
        ("max_steps", "'max_steps' is not a setting"),
        ("=3", "'' is not a key"),
        ("train..max_steps=3", "'train..max_steps' is not a key"),
        ("output_dir.name=3", "output_dir is a value, not a section"),
        ("eval.prompts=[a", "not valid YAML"),
    ],
)
def test_what_is_not_an_override_is_refused_with_the_form(only_problem, argument, what):
    problem = only_problem(VALID, argument)
    assert problem.path == "command line"
    assert what in problem.what
    assert problem.remedy


def test_the_same_override_twice_is_refused(only_problem):
    assert only_problem(VALID, "train.seed=1", "train.seed=2").what == "is given twice on the command line"


@pytest.mark.parametrize("argv", [[], ["--config", "run.yaml"], ["train.seed=1", "run.yaml"]])
def test_the_run_file_comes_first(argv):
    with pytest.raises(ConfigError, match="command line: "):
        load_run(argv, "continued_pretraining")


def test_problems_of_the_file_and_of_the_command_line_are_reported_together(problems):
    found = problems(VALID.replace("preset: nano", "preset: x"), "train.seed=x", "--fast")
    assert [problem.path for problem in found] == ["run.yaml", "command line", "command line"]


def test_a_retired_name_on_the_command_line_is_translated(load):
    assert load(VALID, "train.warmup_ratio=0.1").train == {"max_steps": 5, "warmup_steps": 0.1}
