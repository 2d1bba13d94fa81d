"""A run file and its overrides -> one checked, typed `Run`. Nothing of torch or transformers is imported.

reading/            the YAML file and section.key=value, every value with its line
validation/         names and types of every section; train and lora against the stack's own table
checks/             settings that conflict with each other, with this machine or with these folders
model_files/        a model's folder, checked as a whole before anything is built of it
paths.py            local paths: expanded, and told from Hub ids
bounds.py           the largest number that each setting may be
sections.py         the sections of a `Run`, with their defaults
dump.py             a `Run` back to run.yaml
changes.py          what is another setting when a run is typed again, and what that does

Each stage adds its problems to one `RunDocument`, and all of them are raised together: a run file with five mistakes
takes one attempt to repair, not five.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from pydantic import ValidationError

from hf_finetune.config.changes import Change, find_changes, read_settings
from hf_finetune.config.checks import cross_check
from hf_finetune.config.checks.hub import check_repo_id
from hf_finetune.config.checks.launch import VISIBLE, check_launch_file, check_visible, named_gpus, read_launch_file
from hf_finetune.config.checks.saved import check_saved_model
from hf_finetune.config.dump import dump_dict, dump_yaml
from hf_finetune.config.paths import expand_user
from hf_finetune.config.reading.deprecated import translate_deprecated_names
from hf_finetune.config.reading.document import COMMAND_LINE, Place, RunDocument, format_value
from hf_finetune.config.reading.overrides import apply_overrides, find_run_file
from hf_finetune.config.reading.yaml_reader import read_document
from hf_finetune.config.sections import (
    SHIPPED_RECIPES,
    DataSection,
    EvalSection,
    ModelSection,
    RecipeName,
    Run,
    ScratchSection,
    Section,
)
from hf_finetune.config.validation.hf_settings import SFT_RECIPES
from hf_finetune.config.validation.run_file import PLACEHOLDER, check_sections
from hf_finetune.errors import ConfigError, Problem, find_closest, suggest
from hf_finetune.ranks import is_first_rank

__all__ = [
    "COMMAND_LINE",
    "PLACEHOLDER",
    "SFT_RECIPES",
    "VISIBLE",
    "Change",
    "DataSection",
    "EvalSection",
    "ModelSection",
    "RecipeName",
    "Run",
    "RunSource",
    "ScratchSection",
    "build_run",
    "check_launch_file",
    "check_repo_id",
    "check_saved_model",
    "check_template_hash",
    "check_visible",
    "dump_dict",
    "dump_yaml",
    "find_changes",
    "load_run",
    "named_gpus",
    "read_launch_file",
    "read_recipe_name",
    "read_settings",
    "sampling_settings",
]

logger = logging.getLogger(__name__)


RunSource = str | Mapping[str, Any]
"""A run file, or from Python its sections as a dict."""


def load_run(argv: Sequence[RunSource], recipe: RecipeName, *, say_notes: bool = True) -> Run:
    """Parse and validate the run that `argv` describes: a run file (or a dict), then any number of `section.key=value`.

    Deprecated names are translated, each with a warning in the log of rank 0, unless `say_notes` is off since the run
    is read again. Raises ConfigError with every problem at once.
    """
    document = _read(find_run_file(argv))
    apply_overrides(document, [str(each) for each in argv[1:]])
    return _check_document(document, recipe, say_notes=say_notes)


def build_run(values: dict[str, Any], recipe: RecipeName) -> Run:
    """Build the run that a command describes without a file, validated as `load_run` does. Raises ConfigError."""
    return _check_document(_as_document(values | {"recipe": recipe}, COMMAND_LINE), recipe)


def sampling_settings(options: Mapping[str, Any], key: Callable[[str], str] = str) -> EvalSection:
    """Build the section `eval` from sampling options; `key` writes an option's name in a message.

    Raises ConfigError naming each option that is unknown or out of range.
    """
    unknown = [name for name in options if name not in EvalSection.model_fields]
    if unknown:
        known = sorted(EvalSection.model_fields)
        raise ConfigError(
            [Problem("is no such option", suggest(name, known), key=key(name), code="HF602") for name in unknown]
        )
    try:
        return EvalSection(**options)
    except ValidationError as refused:
        found = [(str(error["loc"][0]), error["msg"]) for error in refused.errors()]
        raise ConfigError([Problem(message, key=key(name), code="HF603") for name, message in found]) from None


def check_template_hash(sha256: str | None) -> None:
    """Raise `ConfigError` where the hash of a trusted template has another form than `data.trust_chat_template` has."""
    others = {"model": {"path": PLACEHOLDER}, "output_dir": PLACEHOLDER}
    data = {"test": PLACEHOLDER, "trust_chat_template": sha256}
    document = _as_document({"recipe": "score", **others, "data": data}, "")
    check_sections(document, "score")
    if document.problems:
        raise ConfigError(document.problems)


def _read(source: RunSource) -> RunDocument:
    if not isinstance(source, str | Mapping):
        raise ConfigError(
            Problem(f"{source!r:.60} is no run", "give a run file, or a dict of its sections", code="HF615")
        )
    return read_document(source) if isinstance(source, str) else _as_document(source, "")


def _as_document(values: Mapping[str, Any], path: str) -> RunDocument:
    """Wrap values that stand in no file: a message gives `path`, without lines, or their key alone."""
    document = RunDocument(path, values=_as_plain(values))
    document.places = {(name,): Place(path, None) for name in document.values}
    return document


def _as_plain(value: Any) -> Any:
    """Copy a value as a file would give it: in dicts, lists and text."""
    if isinstance(value, Mapping):
        return {str(key): _as_plain(each) for key, each in value.items()}
    if isinstance(value, list | tuple):
        return [_as_plain(each) for each in value]
    return str(value) if isinstance(value, Path) else value


def _check_document(document: RunDocument, recipe: RecipeName, *, say_notes: bool = True) -> Run:
    # The order matters: a deprecated name would be an unknown key to check_sections, and cross_check compares values
    # whose types are known to be right.
    _check_recipe(document, recipe)
    translate_deprecated_names(document, recipe)
    checked = check_sections(document, recipe)
    cross_check(document, checked, recipe)
    if document.problems:
        raise ConfigError(_sort_by_line(document.problems))
    if say_notes and is_first_rank():
        for note in document.notes:
            logger.warning("%s", replace(note, code=""), extra={"code": note.code})
    return _make_run(document, checked)


def read_recipe_name(source: RunSource, overrides: Sequence[str] = ()) -> RecipeName:
    """Read only the `recipe` key of a run file.

    Raises ConfigError if it is missing or no recipe of this version, with what is wrong with the other keys as well.
    """
    document = _read(source)
    name = document.values.get("recipe")
    for recipe in SHIPPED_RECIPES:
        if name == recipe:
            return recipe
    what = "is missing" if name is None else f"{format_value(name)} is not a recipe of this version"
    remedy = suggest(str(name), SHIPPED_RECIPES, f"the recipes are {', '.join(SHIPPED_RECIPES)}")
    document.refuse(("recipe",), what, remedy, code="HF605" if name is None else "HF604")
    apply_overrides(document, overrides)
    guess = _guess_recipe(document.values)
    translate_deprecated_names(document, guess)
    check_sections(document, guess)
    raise ConfigError(_sort_by_line(document.problems))


def _guess_recipe(values: Mapping[str, Any]) -> RecipeName:
    """The recipe that the keys of a run file look like, by which those of another tool are named."""
    scratch = isinstance(values.get("model"), dict) and values["model"].get("scratch") is not None
    adapts = any(str(name).startswith(("lora", "adapter", "peft")) for name in values)
    close = find_closest(str(values.get("recipe")), SHIPPED_RECIPES)
    named = next((recipe for recipe in SHIPPED_RECIPES if recipe == close), None)
    return named or ("continued_pretraining" if scratch else "lora" if adapts else "sft")


def _sort_by_line(problems: Sequence[Problem]) -> list[Problem]:
    return sorted(problems, key=lambda problem: (problem.line is None, problem.line or 0))


def _check_recipe(document: RunDocument, recipe: RecipeName) -> None:
    named = document.values.get("recipe")
    if named in SHIPPED_RECIPES and named != recipe:
        what = f"the file is a run of {named}, and {recipe} was asked to read it"
        typed = document.find_place(("recipe",)).path == COMMAND_LINE
        remedy = "leave recipe out there: the run file names it" if typed else f"launch recipes/{named}.py"
        document.refuse(("recipe",), what, remedy, code="HF618")


def _make_run(document: RunDocument, checked: Any) -> Run:
    # Only what was given is kept of train and lora: the stack's own defaults apply, and run.yaml stays short.
    return Run(
        recipe=checked.recipe,
        model=expand_user(checked.model),
        data=expand_user(checked.data),
        train=_select_given(checked.train, document.values.get("train")),
        lora=None if checked.lora is None else _select_given(checked.lora, document.values["lora"]),
        eval=expand_user(checked.eval),
        card=checked.card,
        hub=checked.hub,
        output_dir=expand_user(checked.output_dir),
    )


def _select_given(section: Section, written: dict[str, Any] | None) -> dict[str, Any]:
    """The settings of `train` or `lora` that were given, with their types and in their order, without the defaults."""
    typed = section.model_dump(exclude_unset=True)
    return {name: typed[name] for name in written or {} if name in typed}
