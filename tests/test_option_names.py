"""A message names what was typed: the options of a command, not the settings of a run file."""

from __future__ import annotations

import pytest

from hf_finetune.cli.option_tables import OPTION_NAMES
from hf_finetune.config.sections import DataSection, EvalSection, ModelSection
from hf_finetune.errors import Problem
from hf_finetune.option_names import OptionNames, name_options

NAMES = OptionNames({"eval.base": "--base", "data.columns": "--columns", "eval.prompts": "prompt", "data.max": ""})
SAID = [
    (Problem("is asked", "add eval.base: true", key="eval.base"), "--base: is asked; add --base"),
    (Problem("is asked", "set eval.base: other/model if so"), "is asked; set --base other/model if so"),
    (Problem("is asked", "set eval.prompts: hi"), 'is asked; set prompt="hi"'),
    (Problem("data.max: 3 is less"), "max: 3 is less"),
    (Problem("too long", "split it, or raise data.max"), "too long; split it"),
    (Problem("too long", "raise data.max"), "too long"),
    (Problem("data.max is 3 and data.maximum 4"), "max is 3 and data.maximum 4"),
    (
        Problem("no", '`data.columns: {text: body, label: "a b"}` takes it'),
        "no; `--columns text=body 'label=a b'` takes it",
    ),
    (Problem("is bad", key="eval.prompts[1]"), "prompt 2: is bad"),
    (Problem("is bad", key="data.max"), "is bad"),
    (Problem("is bad", key="train.lr"), "train.lr: is bad"),
]


@pytest.mark.parametrize(("problem", "message"), SAID)
def test_settings_are_named_as_the_options_of_the_command(problem, message):
    before = str(problem)
    with name_options(NAMES):
        assert str(problem) == message
    assert str(problem) == before


def test_a_remedy_that_a_command_does_not_have_is_replaced():
    with name_options(OptionNames({"data.max": ""}, otherwise="split it")):
        assert str(Problem("too long", "raise data.max")) == "too long; split it"


def test_every_setting_in_the_tables_is_one_and_every_option_is_of_its_command():
    import typer

    from hf_finetune.cli import app

    sections = {"data": DataSection, "eval": EvalSection, "model": ModelSection}
    commands = typer.main.get_command(app).commands
    for command, names in OPTION_NAMES.items():
        options = {option for each in commands[command].params for option in each.opts}
        for setting, option in names.options.items():
            section, _, name = setting.partition(".")
            assert name in sections[section].model_fields
            assert not option.startswith("--") or option in options


def test_no_setting_of_training_is_so_like_an_option_that_it_is_taken_for_one():
    import typer

    from hf_finetune.cli import app
    from hf_finetune.cli.option_tables import LIKE_AN_OPTION, SettingsCommand
    from hf_finetune.config.validation.hf_settings import load_table
    from hf_finetune.errors import find_closest

    commands = [each for each in typer.main.get_command(app).commands.values() if isinstance(each, SettingsCommand)]
    assert [each.name for each in commands] == ["check", "train"]
    for command in commands:
        options = [option for each in command.params for option in each.opts if option.startswith("--")]
        for setting in load_table()["TrainingArguments"]:
            assert find_closest(f"--{setting}", options, cutoff=LIKE_AN_OPTION) is None
