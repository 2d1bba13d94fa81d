"""Files of rows, and perhaps a model -> the text of a run file."""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path, PurePath
from typing import Any

from hf_finetune.config import load_run
from hf_finetune.config.sections import DataSection, RecipeName
from hf_finetune.data.early_check import check_trained_rows
from hf_finetune.errors import CannotWriteError, ConfigError, Problem
from hf_finetune.files import explain_unwritable, make_parents, read_bounded_yaml, write_atomically
from hf_finetune.folders.ownership import check_new_file
from hf_finetune.metric_info import say_count
from hf_finetune.preflight.plan import rules
from hf_finetune.preflight.plan.choices import Found, Setting, choose_recipe
from hf_finetune.preflight.plan.columns import Reading, Task, choose_reading
from hf_finetune.preflight.plan.contents import find_languages
from hf_finetune.preflight.plan.lengths import Tokens, guess_tokens, measure_tokens
from hf_finetune.preflight.plan.machine import look_at_machine
from hf_finetune.preflight.plan.model_choice import READY_MADE, SCRATCH, Ask, check_model_fits, choose_model
from hf_finetune.preflight.plan.models import ModelFound, look_at_model
from hf_finetune.preflight.plan.roles import assign_roles, choose_text_format, find_files
from hf_finetune.preflight.plan.rows import RowsFound, get_texts, look_at_rows
from hf_finetune.preflight.plan.sections import choose_settings, explain_no_validation
from hf_finetune.preflight.plan.write import write_run_file
from hf_finetune.shell import shell_line, shell_path

LANGUAGES_SAID = 5


@dataclass(frozen=True, slots=True)
class NewRun:
    """A run file, and what it was made from."""

    path: str
    recipe: RecipeName
    text: str
    settings: tuple[Setting, ...]
    found: Found
    why: str
    why_model: str
    commands: tuple[str, ...]
    """What to type next."""
    warnings: tuple[str, ...] = ()
    """Why the run teaches, or shows, little."""

    def as_dict(self) -> dict[str, Any]:
        """Build the JSON of what was found and chosen."""
        found, rows = self.found, self.found.rows
        return {
            "path": self.path,
            "recipe": self.recipe,
            "why": self.why,
            "model": found.model_path,
            "why_model": self.why_model,
            "found": {
                "files": found.files,
                "format": found.reading.format,
                "columns": found.reading.columns,
                "rows": rows.counts,
                "rejected": rows.rejected,
                "repeats": rows.repeats,
                "characters": asdict(rows.characters),
                "tokens": asdict(found.tokens.spread)
                | {"in_all": found.tokens.total, "measured": found.tokens.measured, "sampled": found.tokens.rows},
                "labels": dict(rows.labels),
                "group_by": rows.group_by,
                "languages": found.languages,
                "machine": asdict(found.machine),
            },
            "settings": {each.key: each.value for each in self.settings},
            "warnings": list(self.warnings),
            "next": list(self.commands),
        }


def make_run_file(
    files: Sequence[str],
    *,
    model: str | None = None,
    task: Task | None = None,
    output: str = "run.yaml",
    ask: Ask | None = None,
) -> NewRun:
    """Write a commented run file for these files. `ask` chooses a model of those on the disk, by default the first.

    Raises ConfigError where the file is there already or the task does not fit the rows, DataError for files that hold
    no rows, ModelError for a model that cannot be read, and CannotWriteError.
    """
    if not all(files):
        raise ConfigError(Problem("a file has no name", "name a file of rows", code="HF001"))
    if model == "":
        raise ConfigError(Problem("is empty", "name a folder, a Hub id or scratch", key="--model", code="HF001"))
    check_new_file(Path(output), overwrite=None, example="run.yaml", key="--output")
    new = plan_run(files, model=model, task=task, output=output, ask=ask)
    try:
        with make_parents(Path(output)):
            write_atomically(Path(output), new.text)
    except OSError as problem:
        raise CannotWriteError(explain_unwritable(Path(output), problem)) from None
    return new


def plan_run(files: Sequence[str], *, model: str | None, task: Task | None, output: str, ask: Ask | None) -> NewRun:
    """Look at everything, choose, and check that the result is a run that starts; nothing is written."""
    roles = assign_roles(files)
    text_format = choose_text_format(files)
    sources = find_files(roles, text_format)
    if text_format is None:
        reading = choose_reading(sources["train"], task)
    else:
        reading = _read_text_file(text_format, task, files[0])
    machine = look_at_machine()
    path, why_model = (model, "as --model asks") if model else choose_model(reading, machine, ask)
    path = None if path == SCRATCH else path
    looked = None if path is None or (path == READY_MADE and not os.path.isdir(path)) else look_at_model(path)
    check_model_fits(reading, path, None if looked is None else looked[0])
    reading = _put_under_template(reading, looked[0] if looked else None, task)
    data = _as_data(roles, reading)
    rows = look_at_rows(sources, data, reading)
    tokens = _find_tokens(rows, looked, data, reading)
    languages = _find_languages(rows)
    listed: dict[str, list[str]] = {str(role): names for role, names in roles.items()}
    found = Found(listed, reading, rows, tokens, languages, machine, looked[0] if looked else None, path, task)
    return _write(found, output, why_model)


def _read_text_file(text_format: Any, task: Task | None, file: str) -> Reading:
    if task not in (None, "pretrain"):
        what = f"--task {task} takes rows, and this is text"
        raise ConfigError(Problem(what, "leave --task out, or name a file of rows", file, code="HF022"))
    cuts = {"lines": "each line", "paragraphs": "what blank lines separate", "file": "each file"}
    return Reading(text_format, "document", why=f"{cuts[text_format]} is a document")


def _as_data(roles: Any, reading: Reading) -> DataSection:
    given: dict[str, Any] = {role: files[0] if len(files) == 1 else files for role, files in roles.items()}
    task = reading.task if reading.task == "regression" or reading.format == "input_output" else None
    return DataSection(**given, format=reading.format, columns=reading.columns, task=task)


def _put_under_template(reading: Reading, model: ModelFound | None, task: Task | None) -> Reading:
    """Prompts and completions as questions and answers, where the model has a chat template that it is asked by."""
    if reading.becomes != "prompt_completion" or model is None or not model.speaks:
        return reading
    columns = {
        "question": reading.columns.get("prompt", "prompt"),
        "answer": reading.columns.get("completion", "completion"),
    }
    why = "prompt and completion, put under the chat template by which the model is asked"
    return replace(reading, format="question_answer", becomes="conversation", columns=columns, why=why)


def _find_tokens(rows: RowsFound, looked: Any, data: DataSection, reading: Reading) -> Tokens:
    return guess_tokens(rows) if looked is None else measure_tokens(rows, looked[1], data, reading.format)


def _find_languages(rows: RowsFound) -> dict[str, float]:
    sample = rows.sample
    assert sample is not None
    return find_languages(" ".join(text[:2_000] for text in get_texts(row)[:4]) for row in sample)


def _write(found: Found, output: str, why_model: str) -> NewRun:
    recipe, why = choose_recipe(found)
    settings = choose_settings(found, recipe)
    settings = [
        Setting("recipe", recipe, why),
        Setting("output_dir", choose_output_dir(found.files["train"][0])),
        *settings,
    ]
    commands = _list_commands(found, output)
    warnings = _list_warnings(found, recipe, {each.key: each.value for each in settings})
    header = [
        f"Made by hf-finetune new on {found.machine.describe()}. {_describe_rows(found)}",
        f"The model: {why_model}.",
        *(f"Beware: {each}." for each in warnings),
        *(f"  {command}" for command in commands),
    ]
    text = write_run_file(header, settings)
    _check(text, recipe, made=found.model is not None or found.model_path is None)
    return NewRun(output, recipe, text, tuple(settings), found, why, why_model, tuple(commands), warnings)


def _list_warnings(found: Found, recipe: RecipeName, settings: Mapping[str, Any]) -> tuple[str, ...]:
    """Why a run of so few rows teaches little, and why its evaluation shows little."""
    rows, becomes = found.rows, found.reading.becomes
    different = rows.counts["train"] - rows.repeats
    if becomes == "document":
        block = settings["data.block_size"]
        few = rules.explain_few_tokens(found.tokens.total, block, scratch=found.model_path is None)
    else:
        few = rules.explain_few_rows(becomes, different, len(rows.labels))
    if settings["train.eval_strategy"] == "no":
        shown: str | None = explain_no_validation(found)
    else:
        drawn = round(rows.counts["train"] * settings.get("data.validation_fraction", 0))
        shown = rules.explain_few_held_out(rows.counts.get("validation", drawn), accuracy=bool(rows.labels))
    return tuple(each for each in (few, shown) if each is not None)


def _describe_rows(found: Found) -> str:
    rows = found.rows
    languages = ", ".join(f"{name} {share:.0%}" for name, share in list(found.languages.items())[:LANGUAGES_SAID])
    languages += ", …" * (len(found.languages) > LANGUAGES_SAID)
    counts = ", ".join(f"{count:,} for {role}" for role, count in rows.counts.items())
    spread = rows.characters
    lengths = f"{say_count(spread.median, 'character')} in the median, {spread.longest:,} in the longest"
    said = f"Rows: {counts}; {lengths}"
    return f"{said}; languages: {languages}." if languages else f"{said}."


def _list_commands(found: Found, output: str) -> list[str]:
    made = found.model is not None or found.model_path is None
    first = [] if made else [shell_line(["hf-finetune", "model", PurePath(READY_MADE).name, READY_MADE])]
    path = shell_path(output)
    return [*first, f"hf-finetune check {path}", f"hf-finetune train {path}"]


def choose_output_dir(file: str) -> str:
    """A folder below runs/ that is not there, after the name of the first file."""
    # "x/my rows.v2.jsonl.gz" -> runs/my-rows
    stem = PurePath(file).name.partition(".")[0] or "run"
    name = "".join(letter if letter.isalnum() or letter in "-_" else "-" for letter in stem).strip("-") or "run"
    number = 1
    # A link to nowhere is there, too, and `exists` would follow it.
    while os.path.lexists(path := f"runs/{name}" if number == 1 else f"runs/{name}-{number}"):
        number += 1
    return path


def _check(text: str, recipe: RecipeName, *, made: bool) -> None:
    """Check the file as a run is checked: settings, then rows and labels. Raises what the run would raise."""
    values = read_bounded_yaml(text)
    if not made:  # the model of the first command is not there yet
        values["model"] = {"path": "org/model"}
    run = load_run([values], recipe, say_notes=False)
    check_trained_rows(run)
