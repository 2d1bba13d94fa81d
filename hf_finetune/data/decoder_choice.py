"""The first rows of a run's training files -> the decoder that every row of the run must pass."""

from __future__ import annotations

import difflib
import logging
from collections.abc import Mapping, Sequence
from typing import Any

from hf_finetune.config.sections import DataSection
from hf_finetune.data.arrow import Reading, read_role
from hf_finetune.data.decoding import RowDecoder
from hf_finetune.data.formats import FORMATS, Kind, RowFormat, choose_format
from hf_finetune.data.reader import Tally, first_row, read_jsonl
from hf_finetune.data.sources import TEXT_FORMATS, DataFile
from hf_finetune.errors import DataError, Problem

logger = logging.getLogger(__name__)


def choose_decoder(data: DataSection, becomes: Kind, train: Sequence[DataFile]) -> RowDecoder:
    """Decide the format by the first row, check it against the recipe, and let the first label set the type."""
    if data.format in TEXT_FORMATS:
        _check_kind(FORMATS[data.format], becomes, train[0].shown)
        return RowDecoder(FORMATS[data.format], (), {})
    first, line, file = _first_row(data, train)
    row_format = choose_format(data.format, first, data.task, file.shown, line)
    _check_kind(row_format, becomes, file.shown)
    if data.format == "auto":
        logger.info("data.format is %s, by the keys of %s:%d", row_format.name, file.shown, line)
    kept = [key for key in (data.stratify_by, data.group_by) if key is not None]
    _check_fields(data, first, row_format, file.shown)
    decoder = RowDecoder(row_format, kept, first, allow_empty=data.allow_empty)
    if row_format.label is not None:
        for _ in read_jsonl(file.path, file.shown, decoder, data.max_line_bytes, Tally()):
            if decoder.labels.kind not in {None, "empty list"}:
                break
    return decoder


def _first_row(data: DataSection, train: Sequence[DataFile]) -> tuple[dict[str, Any], int, DataFile]:
    for file in train:
        found = first_row(file.path, file.shown, data.max_line_bytes)
        if found is not None:
            return *found, file
    # No line of any file is a JSON object, so each is rejected (or blank) before its keys would matter.
    name = "text" if data.format == "auto" else data.format
    reading = Reading(RowDecoder(FORMATS[name], (), {}), "fail", data.max_line_bytes, None, None)
    read_role(train, "train", reading)
    raise AssertionError("a file without a single row was read")


def _check_kind(row_format: RowFormat, becomes: Kind, shown: str) -> None:
    kinds = (becomes, "prompt_completion") if becomes == "conversation" else (becomes,)
    if row_format.becomes in kinds:
        return
    fitting = ", ".join(each.name for each in FORMATS.values() if each.becomes in kinds)
    remedy = f"this recipe takes {_KIND_NAMES[becomes]}; data.format may be {fitting}"
    if "text" in row_format.required and becomes == "document":
        remedy += "; `format: text` reads only the `text` of each row"
    if row_format.name == "input_output" and becomes == "labelled":
        remedy += "; `task: classification` takes `output` as the label"
    raise DataError(Problem(f"rows of format {row_format.name} are {_KIND_NAMES[row_format.becomes]}", remedy, shown))


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
            near = difflib.get_close_matches(key, list(first), 1, 0.6)
            remedy = f"did you mean `{near[0]}`?" if near else f"the rows have {', '.join(list(first)[:20])}"
            problems.append(Problem(f"the rows have no field `{key}`", remedy, shown, key=f"data.{setting}"))
        elif isinstance(first[key], (dict, list)) and key != row_format.label:
            remedy = "name a field that holds a string or a number"
            problems.append(Problem(f"the field `{key}` is no single value", remedy, shown, key=f"data.{setting}"))
    if problems:
        raise DataError(problems)
