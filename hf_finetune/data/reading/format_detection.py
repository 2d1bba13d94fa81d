"""The first rows of a run's training files -> the decoder that every row of the run must pass."""

from __future__ import annotations

import logging
from collections.abc import Mapping, Sequence
from dataclasses import replace
from itertools import islice
from typing import Any, NoReturn, Protocol

from hf_finetune.config.sections import DataSection, RowFormatName
from hf_finetune.data.labels.label_map import log_label_map
from hf_finetune.data.reading.arrow import ReadSettings, read_role
from hf_finetune.data.reading.columns import MOST_GUESSED, format_columns, log_columns, make_example, suggest_columns
from hf_finetune.data.reading.file_kinds import get_ending
from hf_finetune.data.reading.formats import (
    FORMATS,
    LABELLED_INPUT_OUTPUT,
    NUMBERS,
    NUMBERS_INPUT_OUTPUT,
    Kind,
    RowFormat,
)
from hf_finetune.data.reading.json_line import format_key
from hf_finetune.data.reading.lines import ByteSource
from hf_finetune.data.reading.reader import LineCounts, read_first_row, read_rows
from hf_finetune.data.reading.row_decoder import RowDecoder
from hf_finetune.data.reading.row_lines import RowSettings
from hf_finetune.data.reading.sources import TEXT_FORMATS, DataFile
from hf_finetune.errors import DataError, Problem, find_closest, suggest

logger = logging.getLogger(__name__)

# What the columns of a table are to be, in a message.
_NEEDED = {"conversation": "a question and its answer", "labelled": "a text and its label", "document": "a text alone"}


class RowsFile(Protocol):
    """A file of rows, of this machine or of another."""

    @property
    def path(self) -> ByteSource: ...

    @property
    def shown(self) -> str: ...


def choose_decoder(data: DataSection, becomes: Kind, train: Sequence[RowsFile]) -> RowDecoder:
    """Detect the format by the first row, check it against the recipe, and set the type of labels by the first label.

    Raises DataError where the format does not fit the keys or the recipe.
    """
    if data.format in TEXT_FORMATS:
        _check_kind(FORMATS[data.format], becomes, train[0].shown)
        return RowDecoder(FORMATS[data.format], (), {})
    settings = build_row_settings(data)
    first, line, file = _read_first_row(data, settings, train)
    row_format = choose_format(
        data.format, first, data.task, file.shown, line, columns=settings.columns, becomes=becomes
    )
    log_columns(settings.columns, file.shown)
    _check_kind(row_format, becomes, file.shown)
    if data.format == "auto":
        logger.info("data.format is %s, by the keys of %s:%d", row_format.name, file.shown, line)
    kept = [key for key in (data.stratify_by, data.group_by) if key is not None]
    _check_fields(data, first, row_format, file.shown)
    label_map = {label: str(name) for label, name in data.labels.items()}
    log_label_map(label_map, file.shown)
    decoder = RowDecoder(
        row_format, kept, first, allow_empty=data.allow_empty, columns=settings.columns, label_map=label_map
    )
    if row_format.label is not None:
        # `"label": []` does not tell whether labels are names or numbers: the first that is not empty does.
        for _ in read_rows(file.path, file.shown, decoder, replace(settings, quiet=True), LineCounts()):
            if decoder.labels.is_settled:
                break
    return decoder


def build_row_settings(data: DataSection) -> RowSettings:
    """Build the settings of the one reader from those of a run."""
    numbers = ("label", "output") if data.task == "regression" else ()
    columns: dict[str, str] = dict(data.columns.items())
    return RowSettings(data.max_line_bytes, columns, numbers)


def _read_first_row(
    data: DataSection, settings: RowSettings, train: Sequence[RowsFile]
) -> tuple[dict[str, Any], int, RowsFile]:
    for file in train:
        found = read_first_row(file.path, file.shown, replace(settings, quiet=True))
        if found is not None:
            return *found, file
    # No line of any file is a JSON object, so each is rejected (or blank) before its keys would matter.
    files = [file for file in train if isinstance(file, DataFile)]
    if len(files) < len(train):
        asked = "the shard has no" if len(train) == 1 else f"none of the first {len(train)} shards has a"
        what = f"{asked} line that is a JSON object"
        raise DataError(
            Problem(what, "look at them with `hf-finetune check`", train[0].shown, key="data.train", code="HF054")
        )
    refuse_every_line(files, settings, "text" if data.format == "auto" else data.format)


def refuse_every_line(files: Sequence[DataFile], settings: RowSettings, name: RowFormatName = "text") -> NoReturn:
    """Raise DataError with the reason of each line of files no line of which is a JSON object."""
    # The decoder may be of any format: no line comes to it.
    read_role(files, "train", ReadSettings(RowDecoder(FORMATS[name], (), {}), "fail", settings, None, None))
    raise AssertionError("a file without a single row was read")


def _check_kind(row_format: RowFormat, becomes: Kind, shown: str) -> None:
    kinds = (becomes, "prompt_completion") if becomes == "conversation" else (becomes,)
    if row_format.becomes in kinds:
        return
    fitting = ", ".join(each.name for each in FORMATS.values() if each.becomes in kinds)
    # In words that hold for a recipe as for `score` or `export --data`, which read rows by the same path.
    remedy = f"{_KIND_NAMES[becomes]} are needed here: rows of format {fitting}"
    if "text" in row_format.required and becomes == "document":
        remedy += "; `data.format: text` reads only the `text` of each row"
    if row_format.name == "input_output" and becomes == "labelled":
        remedy += "; `task: classification` takes `output` as the label"
    raise DataError(
        Problem(f"rows of format {row_format.name} are {_KIND_NAMES[row_format.becomes]}", remedy, shown, code="HF022")
    )


_NOT_TEXT = frozenset({"messages", "conversations", "tools", "label"})
_KIND_NAMES: dict[Kind, str] = {
    "document": "documents",
    "labelled": "labelled texts",
    "conversation": "conversations",
    "prompt_completion": "prompts with completions",
}


def _check_fields(data: DataSection, first: Mapping[str, Any], row_format: RowFormat, shown: str) -> None:
    problems = []
    for setting in ("stratify_by", "group_by"):
        key = getattr(data, setting)
        if key is None:
            continue
        if key not in first:
            remedy = suggest(key, first, f"the rows have {', '.join(list(first)[:20])}", show="`{}`".format)
            problems.append(
                Problem(f"the rows have no field `{key}`", remedy, shown, key=f"data.{setting}", code="HF024")
            )
        elif isinstance(first[key], (dict, list)) and key != row_format.label:
            remedy = "name a field that holds a string or a number"
            problems.append(
                Problem(f"the field `{key}` is not a single value", remedy, shown, key=f"data.{setting}", code="HF035")
            )
    if problems:
        raise DataError(problems)


def choose_format(
    name: RowFormatName,
    row: Mapping[str, Any],
    task: str | None,
    shown: str,
    line: int,
    *,
    columns: Mapping[str, str] | None = None,
    becomes: Kind | None = None,
) -> RowFormat:
    """Return the format called `name`, or for `auto` the one that the keys of the first row decide.

    Of `columns`, which `row` has been mapped by, the format has every field. Raises DataError where no format fits the
    keys, or two do; what it suggests then is of the kind `becomes`.
    """
    mapped = set(columns or {})
    if name != "auto":
        as_labelled = task is not None and "input" in row and name in {"labelled", "input_output"}
        chosen = _apply_task(FORMATS["input_output"] if as_labelled else FORMATS[name], task)
        _check_mapped(mapped, chosen)
        return chosen
    matches = _match_formats(row, mapped)
    # {"text", "label"} fits `text` and `labelled`: the format that covers the other one is meant.
    matches = [each for each in matches if not any(_covers(other, each) for other in matches)]
    if len(matches) == 1:
        return _apply_task(matches[0], task)
    if not matches:
        raise DataError(_explain_no_format(row, shown, line, mapped, "data.columns", becomes))
    names = " and ".join(f"`{each.name}`" for each in matches)
    raise DataError(
        Problem(
            f"the keys of the first row fit the formats {names}",
            "set data.format to the one you mean",
            shown,
            line,
            code="HF021",
        )
    )


def _match_formats(row: Mapping[str, Any], mapped: set[str]) -> list[RowFormat]:
    return [
        each
        for each in FORMATS.values()
        if not each.in_text_file and set(each.required) <= row.keys() and mapped <= {*each.required, *each.optional}
    ]


def choose_row_checks(
    row: Mapping[str, Any],
    shown: str,
    line: int,
    columns: Mapping[str, str],
    *,
    key: str,
    allow_empty: bool,
    numbers: Sequence[str] = (),
) -> tuple[frozenset[str], RowDecoder | None]:
    """Return the fields that must be text in every row, and the decoder of the format that the first row fits.

    None where the keys fit several, since then that depends on the run; `input` alone is enough to predict. `numbers`:
    fields that are to be numbers. Raises DataError where no format has the keys of the first row.
    """
    matches = _match_formats(row, set(columns))
    if not matches and "input" not in row:
        raise DataError(_explain_no_format(row, shown, line, set(columns), key))
    required = [frozenset(each.required) for each in matches] or [frozenset({"input"})]
    meant = [each for each in matches if not any(_covers(other, each) for other in matches)]
    fields = frozenset.intersection(*required) - _NOT_TEXT
    if len(meant) != 1:
        return fields, None
    row_format = _choose_by_label(meant[0], row, numbers)
    return fields, RowDecoder(row_format, (), row, allow_empty=allow_empty, columns=columns)


def _choose_by_label(row_format: RowFormat, row: Mapping[str, Any], numbers: Sequence[str]) -> RowFormat:
    """Return the format with its label read as that of the first row: what no run takes is no row of it."""
    # Of a number it is open whether it is a class: `NUMBERS` takes whatever one of both takes. A text in `output` may
    # be an answer or a label, and has to be a text in every row.
    name = "output" if row_format.name == "input_output" else "label"
    value = row.get(name)
    is_number = name in numbers or (isinstance(value, (int, float)) and not isinstance(value, bool))
    if row_format.name == "input_output":
        return NUMBERS_INPUT_OUTPUT if is_number else LABELLED_INPUT_OUTPUT if isinstance(value, list) else row_format
    return NUMBERS if is_number and row_format.name == "labelled" else row_format


def _check_mapped(mapped: set[str], row_format: RowFormat) -> None:
    """Raise DataError where `data.columns` names fields that the format does not have."""
    own = (*row_format.required, *row_format.optional)
    unknown = sorted(mapped - set(own))
    if unknown:
        what = f"format {row_format.name} has no field {', '.join(unknown)}"
        raise DataError(Problem(what, f"it has {', '.join(own)}", key="data.columns", code="HF029"))


def _apply_task(row_format: RowFormat, task: str | None) -> RowFormat:
    """Return the format with its label read as a class or, with `task: regression`, as a number."""
    if row_format.name == "input_output" and task is not None:
        return NUMBERS_INPUT_OUTPUT if task == "regression" else LABELLED_INPUT_OUTPUT
    return NUMBERS if row_format.name == "labelled" and task == "regression" else row_format


def _covers(larger: RowFormat, smaller: RowFormat) -> bool:
    """True where `larger` has all required fields of `smaller`: `labelled` (text, label) covers `text`."""
    return larger is not smaller and set(smaller.required) <= {*larger.required, *larger.optional}


def _explain_no_format(
    row: Mapping[str, Any], shown: str, line: int, mapped: set[str], setting: str, becomes: Kind | None = None
) -> Problem:
    if mapped:
        return _explain_no_format_of(row, shown, line, mapped, setting)
    kinds = {becomes, "prompt_completion"} if becomes == "conversation" else {becomes}
    taken = [each for each in FORMATS.values() if becomes is None or each.becomes in kinds]
    known = {field for each in taken for field in each.required}
    unknown = [key for key in islice(row, MOST_GUESSED) if key not in known]
    meant = {key: find_closest(key, known - row.keys(), 0.75) for key in unknown}
    guesses = [f"{format_key(key)} -> `{meant[key]}`" for key in unknown if meant[key]]
    if guesses:
        named = {field: key for key in unknown if (field := meant[key])}
        fits = any(set(each.required) <= {*row, *named} for each in taken if not each.in_text_file)
        remedy = f"did you mean {', '.join(guesses)}?"
        remedy += f" {format_columns(named, setting)} takes them as they are" if fits else ""
        return Problem("no row format has these keys", remedy, shown, line, code="HF020")
    if get_ending(shown) in {".csv", ".tsv"} and any(map(_reads_as_text, row)):
        what = "no row format has these columns, which read as a row: the first line names the columns"
        return Problem(what, "write a line above it, such as text,label or question,answer", shown, line, code="HF060")
    formats = "; ".join(
        f"{each.name}: {', '.join(each.required)}" for each in FORMATS.values() if not each.in_text_file
    )
    keys = ", ".join(format_key(key) for key in list(row)[:20]) or "no keys at all"
    what = f"no row format has these keys: {keys}"
    columns = suggest_columns(row, becomes)
    if columns:
        near = next((each for each in FORMATS.values() if set(columns) <= set(each.required) <= {*row, *columns}), None)
        name = f"the nearest format is {near.name}" if near else "near to a format of ours"
        return Problem(
            what, f"{name}: {format_columns(columns, setting)} makes them rows of it", shown, line, code="HF020"
        )
    if len(row) > 1:
        asked = {kind: needed for kind, needed in _NEEDED.items() if becomes in (None, kind)}
        examples = [format_columns(make_example(row, kind), setting) for kind in asked]
        remedy = f"say which of them hold {', or '.join(asked.values())}, such as {', or '.join(examples)}"
        return Problem(what, remedy, shown, line, code="HF020")
    return Problem(
        what, f"the formats are {formats}; {setting} takes their fields from other names", shown, line, code="HF020"
    )


def _reads_as_text(name: str) -> bool:
    """True of what is no name of a column: "I like it", "Yes." """
    return len(name.split()) > 2 or name.rstrip().endswith((".", "!", "?"))


def _explain_no_format_of(row: Mapping[str, Any], shown: str, line: int, mapped: set[str], setting: str) -> Problem:
    """Explain why the fields that `data.columns` gives make no format: one is missing, or they belong to several."""
    homes = [each for each in FORMATS.values() if mapped <= {*each.required, *each.optional} and not each.in_text_file]
    fields = ", ".join(sorted(mapped))
    if not homes:
        what, remedy = f"no row format has all of {fields}", "map the fields of one format"
    else:
        missing = [f"{each.name} needs {', '.join(sorted(set(each.required) - row.keys()))} too" for each in homes]
        what, remedy = f"{fields} alone {'make' if len(mapped) > 1 else 'makes'} no row", "; ".join(missing)
    return Problem(what, remedy, shown, line, setting, code="HF029")
