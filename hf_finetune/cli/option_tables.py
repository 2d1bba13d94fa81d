"""What each command calls the settings of a run file, so that its messages name what was typed."""

from __future__ import annotations

import functools
from collections.abc import Callable, Sequence
from typing import Any

import typer.core

from hf_finetune.errors import ConfigError, Problem, find_closest
from hf_finetune.option_names import OptionNames, name_options

LIKE_AN_OPTION = 0.8
_SAMPLING = {
    "eval.prompts": "prompt",
    "eval.max_new_tokens": "--max-new-tokens",
    "eval.temperature": "--temperature",
    "eval.top_k": "--top-k",
    "eval.top_p": "--top-p",
    "eval.repetition_penalty": "--repetition-penalty",
    "eval.seed": "--seed",
}
# A template comes with the model that is named.
_TEMPLATE = {"data.chat_template": "", "data.fold_system": "", "data.trust_chat_template": "--trust-chat-template"}
_NO_TEMPLATE = dict.fromkeys(_TEMPLATE, "")
# What is read is named as an argument, and the message names the file.
_ARGUMENTS = {"model.path": "", "data.test": "", "data.max_line_bytes": "", "data.on_bad_line": ""}

OPTION_NAMES: dict[str, OptionNames] = {
    "score": OptionNames(
        {
            **_ARGUMENTS,
            **_TEMPLATE,
            "data.allow_empty": "",
            "data.train": "--train-data",
            "data.format": "--format",
            "data.columns": "--columns",
            "data.labels": "--label",
            "eval.base": "--base",
            "eval.by": "--by",
            "eval.forget": "--forget",
            "eval.swaps": "--swaps",
            "eval.canaries": "--canaries",
            "eval.verbatim_prefix": "--verbatim-prefix",
            "eval.harness": "--harness",
            "eval.generate_rows": "--generate-rows",
            "eval.batch_size": "--batch-size",
            "eval.max_new_tokens": "--max-new-tokens",
        }
    ),
    "predict": OptionNames(
        {**_ARGUMENTS, **_NO_TEMPLATE, "data.columns": "--columns", "data.format": "", "data.allow_empty": ""},
        otherwise='write each text on a line of its own, as {"text": "..."}',
    ),
    "rows": OptionNames(
        {**_ARGUMENTS, **_NO_TEMPLATE}
        | {"data.columns": "--columns", "data.allow_empty": "--allow-empty", "data.task": ""},
    ),
    "new": OptionNames(
        {**_NO_TEMPLATE, "model.path": "--model"}
        | dict.fromkeys(("data.train", "data.validation", "data.test", "data.columns", "data.format"), "")
        | dict.fromkeys(("data.validation_fraction", "data.test_fraction"), ""),
        otherwise="give it the fields of a row format first: hf-finetune rows FILE NEW --columns FIELD=COLUMN",
        instead={"data.format": "name it .txt: each line, or what blank lines separate, is a document then"},
    ),
    "generate": OptionNames(
        {**_ARGUMENTS, **_SAMPLING, **_TEMPLATE, "data.columns": "--columns", "data.format": "", "data.allow_empty": ""}
        | {"eval.batch_size": "--batch-size"},
        otherwise='write each prompt on a line of its own, as {"prompt": "..."}',
    ),
    "chat": OptionNames({**_SAMPLING, **_TEMPLATE, "model.path": ""}),
    "serve": OptionNames({**_TEMPLATE, "model.path": ""}),
    **dict.fromkeys(
        ("merge", "export"), OptionNames({**_ARGUMENTS, **_TEMPLATE, "data.test": "--data", "data.labels": ""})
    ),
}


def name_own_options(command: Callable[..., Any]) -> Callable[..., Any]:
    """The command, whose messages name its options in the place of settings."""
    names = OPTION_NAMES.get(command.__name__)
    if names is None:
        return command

    @functools.wraps(command)
    def run(*arguments: Any, **options: Any) -> Any:
        with name_options(names):
            return command(*arguments, **options)

    return run


class SettingsCommand(typer.core.TyperCommand):
    """A command that takes settings: a flag of another tool, `--max_steps 5`, reaches their reader.

    It says how that is written here. Of what is like an option of the command, that one is named.
    """

    def __init__(self, *arguments: Any, **settings: Any) -> None:
        super().__init__(*arguments, **settings)
        self.ignore_unknown_options = True

    def parse_args(self, ctx: Any, args: list[str]) -> list[str]:
        known = [option for each in self.get_params(ctx) for option in each.opts if option.startswith("--")]
        written = [word.partition("=")[0] for word in args if word.startswith("--")]
        _refuse_mistyped([name for name in written if name not in known], known)
        return super().parse_args(ctx, args)


def _refuse_mistyped(names: Sequence[str], known: Sequence[str]) -> None:
    """Raise `ConfigError` naming each that is like one of the `known` options."""
    # Stricter than elsewhere: `--max_steps` is meant as it stands, and is like `--max-restarts` to 0.72.
    near = {name: find_closest(name, known, cutoff=LIKE_AN_OPTION) for name in names}
    meant = {name: option for name, option in near.items() if option is not None}
    if meant:
        from hf_finetune.config import COMMAND_LINE  # pydantic: not for what is typed as it should be

        raise ConfigError(
            [
                Problem(f"{name} is no option", f"did you mean {option}?", COMMAND_LINE, code="HF601")
                for name, option in meant.items()
            ]
        )
