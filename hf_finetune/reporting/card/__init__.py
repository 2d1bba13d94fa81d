"""The model card: README.md of a model folder, with the Hub's metadata and what the run folder says about the model.

Every number is taken from the run folder's files; what is missing is called unknown. No model is loaded.

facts.py      what the run folder says, as values for the template
results.py    tables of scores
procedure.py  how it was trained
"""

from __future__ import annotations

import json
import logging
import re
from collections.abc import Mapping
from dataclasses import replace
from functools import cache
from importlib.resources import files
from pathlib import Path
from typing import Any

import yaml
from jinja2 import Environment, StrictUndefined, Template

from hf_finetune.errors import CannotWriteError, ConfigError, Problem, advise_writing, find_writing_code
from hf_finetune.files import write_atomically
from hf_finetune.folders import CARD, CARD_MARKER
from hf_finetune.privacy import escape_control_characters
from hf_finetune.reporting.card import procedure, results
from hf_finetune.reporting.card.facts import ModelDescription, describe_model
from hf_finetune.reporting.run_record import RunRecord, read_run
from hf_finetune.reporting.verdict import judge_model

logger = logging.getLogger(__name__)

MARKER = CARD_MARKER
TEMPLATE = "card.md.j2"
NO_LICENSE = "not stated; set card.license in the run file"

# Characters that Markdown or HTML reads as markup. An underscore inside a word is not markup, and escaping it would
# make names hard to read: "f1_macro of *all* <rows>" -> "f1_macro of \*all\* \<rows\>".
_MARKUP = re.compile(r"([\\`*\[\]<>&|~]|(?<![^\W_])_|_(?![^\W_]))")


def write_card(
    folder: Path, made_from: Path | None = None, *, report: dict[str, Any] | None = None, called: Path | None = None
) -> Path:
    """Write README.md into a model folder and return its path; `made_from` is the run whose adapter was merged into it.

    `report` takes the place of report.json; `called` is what the folder will be, where it has another name as yet.

    A README.md without our marker is left alone, with a warning. Raises `DataError` for malformed files of the run (see
    `read_run`), and `CannotWriteError`.
    """
    path = folder / CARD
    if path.exists() and MARKER not in path.read_text(encoding="utf-8", errors="replace"):
        logger.warning("%s is yours and stays as it is: no model card was written", CARD, extra={"code": "HF708"})
        return path
    run = find_source_run(folder, made_from, report)
    try:
        write_atomically(path, render_card(run if called is None else replace(run, name=called.resolve().name)))
    except OSError as problem:
        what, shown = f"cannot be written ({problem.strerror})", str((called or folder) / CARD)
        remedy, code = advise_writing(problem.errno, "make room, or allow writing"), find_writing_code(problem.errno)
        raise CannotWriteError(Problem(what, remedy, path=shown, code=code)) from problem
    return path


def find_source_run(folder: Path, made_from: Path | None = None, report: dict[str, Any] | None = None) -> RunRecord:
    """The run that made the model in `folder`, or an empty record where the folder holds no run.

    Raises `DataError` for malformed files of the run.
    """
    try:
        run = read_run(made_from or folder, report=report)
    except ConfigError:
        run = make_unknown_run(folder)
    return replace(run, folder=folder, name=folder.resolve().name)


def make_unknown_run(folder: Path) -> RunRecord:
    """An empty record, of which every section of the card says that nothing is known."""
    return RunRecord(
        folder=folder,
        name=folder.resolve().name,
        status="foreign",
        report={},
        manifest={},
        settings={},
        model={},
        history=[],
        max_steps=None,
        step=0,
        best_step=None,
        best_checkpoint=None,
    )


def render_card(run: RunRecord, repo_id: str | None = None) -> str:
    """The text of the card; `repo_id`, if the folder is pushed, stands for its name in title and snippets."""
    facts = describe_model(run)
    head = yaml.safe_dump(build_metadata(run, repo_id), sort_keys=False, width=10_000)
    body = _load_template().render(
        run=run,
        facts=facts,
        card=_get_card_section(run),
        no_license=NO_LICENSE,
        title=repo_id.split("/")[-1] if repo_id else run.name,
        place=repo_id or _format_place(run),
        pushed=repo_id is not None,
        merged=_is_merged(run, facts),
        scored=str(_get_section(run, "model").get("path", "a model")),
        verdict=_describe_verdict(run),
        from_scratch=_get_section(run, "model").get("scratch") is not None,
        results=results,
        procedure=procedure,
        parameters=run.report.get("parameters", {}),
    )
    return f"---\n{head}---\n\n{MARKER}\n\n{body}"


def build_metadata(run: RunRecord, repo_id: str | None = None) -> dict[str, Any]:
    """The card's metadata as the Hub has it: https://github.com/huggingface/hub-docs/blob/main/modelcard.md

    Unknown keys are left out, the license included.
    """
    facts, owner = describe_model(run), _get_card_section(run)
    # The path of a local base means nothing on the Hub and breaks a push, which checks it as a repository's name:
    # https://github.com/huggingface/transformers/issues/33922. Its own base stands for it, where its card names one.
    base = facts.base and (facts.base.name if facts.base.on_hub else facts.base.own_base)
    stands_on_it = facts.kind == "adapter" and facts.base is not None and facts.base.on_hub
    values = {
        "license": owner["license"],
        "language": owner["language"],
        "library_name": None
        if facts.exported
        else {"adapter": "peft", "model": "transformers", "none": None}[facts.kind],
        "pipeline_tag": facts.task,
        "base_model": base,
        # A model with its adapter merged in is a finetune too: the Hub's `merge` is a model made of several.
        "base_model_relation": base and ("adapter" if stands_on_it else "finetune"),
        "datasets": owner["datasets"],
        "tags": list(dict.fromkeys([*_build_tags(run, facts), *owner["tags"]])),
        "model-index": [] if _is_merged(run, facts) else results.build_model_index(run, facts, repo_id or run.name),
    }
    return {key: value for key, value in values.items() if value}


def _is_merged(run: RunRecord, facts: ModelDescription) -> bool:
    """Whether an adapter was merged in: the metrics were then measured on base plus adapter, not on these weights."""
    return facts.kind == "model" and run.settings.get("lora") is not None


def _build_tags(run: RunRecord, facts: ModelDescription) -> list[str]:
    learned = ["sft"] if procedure.get_recipe(run) in ("sft", "lora") else []
    adapted = ["lora"] if facts.kind == "adapter" else []
    return ["hf-finetune", *learned, *adapted, *(["conversational"] if facts.chat else [])]


def _describe_verdict(run: RunRecord) -> str:
    """Whether the model is better than its base, or than its baselines; "" where nothing was compared."""
    judged = judge_model(run.report)
    return judged.sentence if judged is not None and judged.outcome != "alone" else ""


def _get_card_section(run: RunRecord) -> dict[str, Any]:
    """The section `card` of the run file, with an empty value for each key that is not set."""
    empty: dict[str, Any] = {"license": None, "language": [], "datasets": [], "tags": []}
    empty |= {"intended_use": None, "limits": None, "personal_data": None}
    return empty | _get_section(run, "card")


def _get_section(run: RunRecord, name: str) -> dict[str, Any]:
    given = run.settings.get(name)
    return given if isinstance(given, dict) else {}


def _format_place(run: RunRecord) -> str:
    """`output_dir` as it is recorded; the name of the folder if it was moved since."""
    typed = run.settings.get("output_dir")
    same = isinstance(typed, str) and Path(typed).name == run.name
    return str(typed) if same else run.name


@cache
def _load_template() -> Template:
    environment = Environment(
        undefined=StrictUndefined, trim_blocks=True, lstrip_blocks=True, keep_trailing_newline=True, autoescape=False
    )
    environment.filters |= {
        "md": _escape_markdown,
        "table": _format_table,
        "code": _format_code,
        "python": _format_python,
    }
    text = files("hf_finetune.reporting").joinpath("templates", TEMPLATE).read_text(encoding="utf-8")
    return environment.from_string(text)


def _escape_markdown(text: object) -> str:
    """`text` on one line with Markdown escaped; control and direction characters are written as escapes."""
    return _MARKUP.sub(r"\\\1", _escape_invisible(text))


def _escape_invisible(text: object) -> str:
    return escape_control_characters(" ".join(str(text).split()))


def _format_code(text: object) -> str:
    """`text` on one line, such that it does not end the code it stands in."""
    return _escape_invisible(text).replace("`", "'")


def _format_python(value: str | Mapping[Any, Any]) -> str:
    """A string, or a mapping of strings and numbers, as a Python literal in ASCII, for the snippets."""
    if isinstance(value, Mapping):
        pairs = (f"{_format_python(key)}: {_format_python(item)}" for key, item in value.items())
        return f"{{{', '.join(pairs)}}}"
    return json.dumps(value).replace("`", "\\u0060")


def _format_table(rows: list[list[str]]) -> str:
    """A Markdown table of `rows`, the first of which is the header; columns of numbers are aligned right."""
    # [["label", "rows"], ["ham", "1,200"]] -> "| label | rows |", "| :--- | ---: |", "| ham | 1,200 |"
    head, *body = ([_escape_markdown(cell) for cell in row] for row in rows)
    right = [bool(body) and all(re.fullmatch(r"[\d.,%e+-]*", row[index]) for row in body) for index in range(len(head))]
    rule = ["---:" if each else ":---" for each in right]
    return "\n".join(f"| {' | '.join(row)} |" for row in (head, rule, *body))
