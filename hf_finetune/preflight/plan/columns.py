"""What the first rows are: the format, the fields that have other names, and the task."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from itertools import islice
from typing import Any, Literal

from hf_finetune.config.sections import RowFormatName
from hf_finetune.data.reading.columns import suggest_columns
from hf_finetune.data.reading.file_kinds import get_ending
from hf_finetune.data.reading.format_detection import choose_format, refuse_every_line
from hf_finetune.data.reading.formats import FORMATS, Kind
from hf_finetune.data.reading.json_line import LineError, parse_json_object
from hf_finetune.data.reading.reader import is_blank
from hf_finetune.data.reading.row_lines import RowSettings, iterate_row_blocks
from hf_finetune.data.reading.sources import DataFile
from hf_finetune.errors import ConfigError, DataError, Problem
from hf_finetune.metric_info import say_count
from hf_finetune.preflight.plan.contents import Column, describe_columns

Task = Literal["sft", "lora", "classification", "pretrain"]
FIRST_ROWS = 1_000
KINDS: dict[Task, Kind] = {
    "sft": "conversation",
    "lora": "conversation",
    "classification": "labelled",
    "pretrain": "document",
}
_NAMES = {
    "document": "texts",
    "labelled": "labelled texts",
    "conversation": "conversations",
    "prompt_completion": "prompts with completions",
}
# The keys of the messages of each format of them.
_LISTS: tuple[tuple[RowFormatName, str, set[str]], ...] = (
    ("messages", "messages", {"role", "content"}),
    ("sharegpt", "conversations", {"from", "value"}),
)
_LABELS = frozenset(
    ("label", "labels", "class", "category", "target", "sentiment", "intent", "topic", "rating", "score", "tag", "tags")
)
# What tells of a row, and is seldom what a text is to be told by.
_ABOUT = frozenset(
    ("source", "origin", "lang", "language", "locale", "split", "dataset", "date", "year", "author", "user", "channel")
)
# Two texts that are judged together, as data sets of pairs call them.
_PAIRS = (
    *(("premise", "hypothesis"), ("sentence1", "sentence2"), ("text1", "text2"), ("question1", "question2")),
    *(("sentence_a", "sentence_b"), ("text_a", "text_b"), ("text", "text_pair")),
)


@dataclass(frozen=True, slots=True)
class Reading:
    """How the rows are read."""

    format: RowFormatName
    becomes: Kind
    columns: dict[str, str] = field(default_factory=dict)
    task: Literal["classification", "regression"] | None = None
    why: str = ""
    first: tuple[Mapping[str, Any], ...] = ()
    """The first rows, under their own names."""
    fields: dict[str, Column] = field(default_factory=dict)


def choose_reading(files: Sequence[DataFile], task: Task | None) -> Reading:
    """Choose how rows are read: by the keys of the first, what the values of the first thousand are, and the task.

    Raises DataError where no format fits the keys, and ConfigError where the task does not fit the rows.
    """
    line, first = _read_first_rows(files)
    _refuse_row_as_header(files[0].shown, first)
    fields = describe_columns(first)
    wanted = KINDS[task] if task is not None else None
    reading = _read_by_keys(first[0], fields, wanted) or _guess(first[0], fields, wanted)
    if reading is None:  # raises, with what helps
        choose_format("auto", first[0], None, files[0].shown, line, becomes=wanted)
        raise AssertionError("a format was found that was not found before")
    # Prompts with completions are trained by the recipes of conversations, too.
    if wanted not in (None, reading.becomes) and (wanted, reading.becomes) != ("conversation", "prompt_completion"):
        what = f"--task {task} takes {_NAMES[str(wanted)]}, and these rows are {_NAMES[reading.becomes]}"
        raise ConfigError(Problem(what, "leave --task out, or name other files", files[0].shown, code="HF022"))
    task_of = reading.task or ("regression" if _is_quantity(reading, fields) else None)
    return Reading(reading.format, reading.becomes, reading.columns, task_of, reading.why, tuple(first), fields)


def _read_first_rows(files: Sequence[DataFile]) -> tuple[int, list[dict[str, Any]]]:
    """Read the first rows of the first file that has any, with the number of the first.

    Raises DataError, as a run does, with the reason of each line where no line is a row.
    """
    for file in files:
        rows = list(islice(_iterate_objects(file), FIRST_ROWS))
        if rows:
            return rows[0][0], [row for _, row in rows]
    refuse_every_line(files, RowSettings())


def _refuse_row_as_header(shown: str, first: Sequence[Mapping[str, Any]]) -> None:
    """Raise DataError for a table whose first line is a row: a name of a column is a value below it, too."""
    # Not where a name is a sentence: forms call their columns by their questions.
    repeated = any(row.get(name) == name for row in first for name in row)
    if get_ending(shown) in {".csv", ".tsv"} and repeated:
        what = "the first line, which names the columns, reads as a row: one of its values stands below it, too"
        remedy = "write a line above it, such as text,label or question,answer"
        raise DataError(Problem(what, remedy, shown, 1, code="HF060"))


def _iterate_objects(file: DataFile) -> Any:
    for block in iterate_row_blocks(file.path, file.shown, RowSettings(quiet=True)):
        for number, line in () if block.is_blank else zip(block.line_numbers, block.lines, strict=True):
            if is_blank(line):
                continue
            try:
                yield number, parse_json_object(line)
            except LineError:
                continue


def _read_by_keys(row: Mapping[str, Any], fields: Mapping[str, Column], wanted: Kind | None) -> Reading | None:
    """The reading under the row's own names; None where no format has them."""
    fitting = [each for each in FORMATS.values() if not each.in_text_file and set(each.required) <= row.keys()]
    if not fitting:
        return None
    try:
        chosen = choose_format("auto", row, None, "", 1)
    except DataError:  # two fit as well
        same = [each for each in fitting if wanted in (None, each.becomes)]
        chosen = same[0] if same else fitting[0]
    if wanted == "document" and "text" in row:
        return Reading("text", "document", why="each row has a `text`")
    names = ", ".join(f"`{name}`" for name in chosen.required)
    if len(chosen.required) == 2 and chosen.becomes != "labelled":
        question, answer = chosen.required
        if wanted == "labelled" or (wanted is None and _names_classes(chosen.name, fields[answer])):
            return _read_answers_as_labels(question, answer, fields)
    return Reading(chosen.name, chosen.becomes, why=f"each row has {names}")


def _names_classes(name: str, answers: Column) -> bool:
    """Whether the outputs of input_output rows are labels: few, short, and each in several rows."""
    return name == "input_output" and (answers.is_label or answers.numbers) and answers.distinct <= answers.values // 3


def _read_answers_as_labels(question: str, answer: str, fields: Mapping[str, Column]) -> Reading:
    why = _say_values(fields[answer])
    if (question, answer) == ("input", "output"):
        task: Literal["classification", "regression"] = "regression" if fields[answer].is_quantity else "classification"
        return Reading("input_output", "labelled", task=task, why=why)
    return Reading("labelled", "labelled", {"text": question, "label": answer}, why=why)


def _guess(row: Mapping[str, Any], fields: Mapping[str, Column], wanted: Kind | None) -> Reading | None:
    """Guess the fields from their names, then from what is in them; None where neither tells."""
    if wanted in (None, "conversation") and (listed := _find_messages(row)) is not None:
        return listed
    # A name alone decides nothing: `target` is an answer beside one question, and a class beside another.
    for columns in (_find_pair(fields), *(suggest_columns(row, kind) for kind in ("conversation", "labelled"))):
        reading = _check_guess(columns, fields)
        if reading is not None and wanted in (None, reading.becomes):
            return reading
    # The longest field of text first: it is what a label is for.
    texts = sorted((each for each in fields.values() if each.texts), key=lambda each: -each.mean)
    labels = [each for each in fields.values() if each.is_label or each.is_quantity]
    labels = [each for each in labels if not texts or each is not texts[0]]
    if texts and labels and wanted in (None, "labelled") and all(each.is_label for each in texts[1:]):
        order = list(fields)
        labels.sort(key=lambda each: (each.name.lower() in _ABOUT, not each.texts, order.index(each.name)))
        others = ", ".join(f"`{each.name}`" for each in labels[1:])
        why = _explain_values(texts[0], labels[0]) + (f"; it may be {others}, too" if others else "")
        return Reading("labelled", "labelled", {"text": texts[0].name, "label": labels[0].name}, why=why)
    long = [each for each in texts if not each.is_label]
    if len(long) == 1 and wanted in (None, "document"):
        return Reading("text", "document", {"text": long[0].name}, why=f"`{long[0].name}` is the only field of text")
    return None


def _find_messages(row: Mapping[str, Any]) -> Reading | None:
    """The reading of rows with a list of messages under a name of their own."""
    for name, value in row.items():
        first = value[0] if isinstance(value, list) and value else None
        if not isinstance(first, dict):
            continue
        for format_name, field_name, keys in _LISTS:
            if keys <= first.keys():
                why = f"`{name}` is a list of messages with {' and '.join(sorted(keys))}"
                return Reading(format_name, "conversation", {field_name: name}, why=why)
    return None


def _find_pair(fields: Mapping[str, Column]) -> dict[str, str]:
    """The columns of two texts and their label, by the names that data sets of pairs have."""
    lower = {name.lower(): name for name in fields}
    for one, other in _PAIRS:
        if one in lower and other in lower:
            rest = [each for name, each in fields.items() if name not in (lower[one], lower[other])]
            labels = [each for each in rest if each.is_label or each.is_quantity]
            if labels:
                # By its name, or as what has the fewest values: beside a label there may be an id or a score.
                best = min(labels, key=lambda each: (each.name.lower() != "label", each.distinct))
                return {"text": lower[one], "text_pair": lower[other], "label": best.name}
    return {}


def _check_guess(columns: Mapping[str, str], fields: Mapping[str, Column]) -> Reading | None:
    """The reading that `columns` make, where what is in them is what they are taken for."""
    named = {field: name for field, name in columns.items() if name in fields}
    if not named or len(named) < len(columns):
        return None
    if "label" in named or "text" in named:
        text, label = fields[named.get("text", "text")], fields.get(named.get("label", "label"))
        if label is None or not text.texts or not (label.is_label or label.is_quantity or label.lists):
            return None
        paired = "text_pair" in named
        if not (paired or _LABELS & {*label.name.lower().replace("-", "_").split("_")}):
            return None  # an example, and not what its name says
        return Reading("labelled", "labelled", _drop_same(named), why=_explain_values(text, label))
    question, answer = fields.get(named.get("question", "question")), fields.get(named.get("answer", "answer"))
    if question is None or answer is None or not (question.texts and answer.texts):
        return None
    if answer.is_label and answer.distinct <= answer.values // 3:
        return Reading(
            "labelled", "labelled", {"text": question.name, "label": answer.name}, why=_explain_values(question, answer)
        )
    return Reading(
        "question_answer",
        "conversation",
        _drop_same(named),
        why=f"`{answer.name}` answers `{question.name}`, by their names",
    )


def _drop_same(columns: Mapping[str, str]) -> dict[str, str]:
    return {field: name for field, name in columns.items() if field != name}


def _explain_values(text: Column, label: Column) -> str:
    return f"`{text.name}` is text, and {_say_values(label)}"


def _say_values(column: Column) -> str:
    return f"`{column.name}` has {say_count(column.distinct, 'value')} in the first {say_count(column.values, 'row')}"


def _is_quantity(reading: Reading, fields: Mapping[str, Column]) -> bool:
    label = fields.get(reading.columns.get("label", "label"))
    return reading.becomes == "labelled" and label is not None and label.is_quantity
