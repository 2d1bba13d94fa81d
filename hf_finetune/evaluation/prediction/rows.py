"""Lines of a file -> texts for a classifier; its logits -> the same lines with fields added.

A line is never re-encoded: the new fields are inserted before its last brace, and all other bytes stay as they are.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import msgspec
import numpy as np
from msgspec import UNSET, UnsetType

from hf_finetune.data.reading.formats import Columns, RowFormat
from hf_finetune.data.reading.json_line import LineError, format_key, parse_json_object
from hf_finetune.data.reading.lines import LineBlock
from hf_finetune.data.reading.reader import is_blank
from hf_finetune.data.reading.row_decoder import RowDecoder
from hf_finetune.data.reading.row_lines import RowSettings, iterate_row_blocks
from hf_finetune.errors import DataError, Problem
from hf_finetune.models.decision import Array, Decision

ADDED = ("label", "score", "scores")
WINDOW_ROWS = 4096
WINDOW_BYTES = 8 * 1024**2
MAX_LINE_BYTES = 16 * 1024**2

TAKEN_REMEDY = "give the added fields other names, for example with --prefix predicted_"

# {"text":"..." of a line, its first key and what follows the colon.
_COMPACT = re.compile(rb'\s*\{\s*"(?:[^"\\]|\\.)*"\s*:\S')


@dataclass(slots=True)
class Window:
    """Consecutive rows of a file: the line, its number, its text and its second text, one list each."""

    lines: list[bytes] = field(default_factory=list)
    numbers: list[int] = field(default_factory=list)
    texts: list[str] = field(default_factory=list)
    pairs: list[str | None] = field(default_factory=list)
    problems: list[Problem] = field(default_factory=list)
    """One for each line that is left out."""
    taken: Problem | None = None
    """The first problem with a row that already has a field with the name of one to be added."""
    size: int = 0
    """Bytes of all its lines."""

    @property
    def full(self) -> bool:
        return len(self.lines) + len(self.problems) >= WINDOW_ROWS or self.size >= WINDOW_BYTES


def read_windows(path: Path, shown: str, prefix: str, columns: Mapping[str, str] | None = None) -> Iterator[Window]:
    """Yield the rows of a file (`-` is standard input) in order, in at least one window of up to 4,096 rows.

    A row has `text`, and perhaps `text_pair`, or it has `input`: the first row with either decides. Blank lines are
    skipped. Raises `DataError` if the file as a whole holds no rows.
    """
    window, decoder = Window(), None
    for block in iterate_row_blocks(path, shown, RowSettings(MAX_LINE_BYTES, columns or {}, columns_key="--columns")):
        if block.is_blank:
            continue
        if decoder is None and (first := _find_first_row(block.lines)):
            decoder = _make_decoder(first, prefix)
        elif decoder is None:
            _check_columns(block, shown)
        _add_block(window, block, decoder or _make_decoder({"text": ""}, prefix), shown)
        if window.full:
            yield window
            window = Window()
    yield window


def _find_first_row(lines: Sequence[bytes]) -> dict[str, Any] | None:
    for line in lines:
        try:
            row = parse_json_object(line)
        except LineError:
            continue
        if "text" in row or "input" in row:
            return row
    return None


def _check_columns(block: LineBlock, shown: str) -> None:
    """Raise DataError where the rows of a table have no text: its columns are those of every row."""
    if block.numbers is None:
        return
    row = next((parse_json_object(line) for line in block.lines if not is_blank(line)), None)
    if row is None:
        return
    what = f"there is no column `text` or `input`; the columns are {', '.join(map(format_key, list(row)[:20]))}"
    raise DataError(Problem(what, "take it from another: --columns text=COLUMN", shown, code="HF023"))


def _make_decoder(first: dict[str, Any], prefix: str) -> RowDecoder:
    """Make the decoder of rows with the fields of `first`.

    It accepts the fields to be added, too, with values of any type: such rows are rejected afterwards, by name.
    """
    fields: list[Any] = [(name, Any, UNSET) for name in ADDED]
    names = {name: prefix + name for name in ADDED}
    if "text" in first:
        pair = ("text_pair", str | UnsetType | None, UNSET)
        row_type = msgspec.defstruct(
            "TextRow", [("text", str), pair, *fields], rename=names, forbid_unknown_fields=True, gc=False
        )
        row_format = RowFormat("text", "document", ("text",), row_type, _collect_texts, ("text_pair",))
    else:
        row_type = msgspec.defstruct(
            "InputRow", [("input", str), *fields], rename=names, forbid_unknown_fields=True, gc=False
        )
        row_format = RowFormat("input_output", "document", ("input",), row_type, _collect_inputs)
    return RowDecoder(row_format, (), first)


def _collect_texts(rows: Sequence[Any]) -> Columns:
    pairs = [None if row.text_pair is UNSET else row.text_pair for row in rows]
    return {"text": [row.text for row in rows], "text_pair": pairs}


def _collect_inputs(rows: Sequence[Any]) -> Columns:
    return {"text": [row.input for row in rows], "text_pair": [None] * len(rows)}


def _add_block(window: Window, block: LineBlock, decoder: RowDecoder, shown: str) -> None:
    window.size += len(block.data)
    if block.overlong is not None:
        what = f"the line has {block.overlong:,} bytes, more than the limit of {MAX_LINE_BYTES:,}"
        window.problems.append(Problem(what, "split it", shown, block.first_line, code="HF015"))
    if block.fault is not None:
        window.problems.append(
            Problem(block.fault.reason, block.fault.remedy, shown, block.first_line, code=block.fault.code)
        )
    # Fast path: the whole block is decoded at once, which fails if any of its lines does.
    rows = decoder.decode_block(block.data, block.count) if block.count else []
    if rows is None or any(_has_added_field(row) for row in rows):
        rows = _decode_lines(window, block, decoder, shown)
    else:
        window.lines += block.lines
        window.numbers += block.line_numbers
    columns = decoder.row_format.columns(rows)
    window.texts += columns["text"]
    window.pairs += columns["text_pair"]


def _has_added_field(row: Any) -> bool:
    return row.label is not UNSET or row.score is not UNSET or row.scores is not UNSET


def _decode_lines(window: Window, block: LineBlock, decoder: RowDecoder, shown: str) -> list[Any]:
    rows = []
    for number, line in zip(block.line_numbers, block.lines, strict=True):
        if is_blank(line):
            continue
        try:
            row = decoder.decode_line(line, f"{shown}:{number}")
        except LineError as bad:
            window.problems.append(Problem(bad.reason, bad.remedy, shown, number, bad.key, code=bad.code))
            continue
        if _has_added_field(row):
            window.problems.append(Problem(_describe_conflict(row, decoder), TAKEN_REMEDY, shown, number, code="HF343"))
            window.taken = window.taken or window.problems[-1]
            continue
        rows.append(row)
        window.lines.append(line)
        window.numbers.append(number)
    return rows


def _describe_conflict(row: Any, decoder: RowDecoder) -> str:
    values = {"label": row.label, "score": row.score, "scores": row.scores}
    held = [key for key, name in decoder.attributes.items() if values.get(name, UNSET) is not UNSET]
    return f"the row has {' and '.join(map(format_key, held))} already, which would be added"


def append_fields(line: bytes, added: str) -> bytes:
    """Insert fields at the end of a line that holds one JSON object of at least one field; ends it with a line feed.

    b'{"text": "hi"}\\r\\n', '"label": "ham"' -> b'{"text": "hi", "label": "ham"}\\n'
    """
    end = line.rindex(b"}")
    comma = b"," if is_compact(line) else b", "
    return b"%b%b%b%b\n" % (line[:end], comma, added.encode(), line[end:])


def is_compact(line: bytes) -> bool:
    """Whether a line that holds a JSON object has no blank behind the colon of its first field."""
    return _COMPACT.match(line) is not None


def format_added_fields(
    logits: Array, decision: Decision | None, prefix: str, top_k: int | None, *, compact: bool = False
) -> list[str]:
    """Format the JSON fields that each row gets from the saved model's logits, (rows, labels).

    They are `label`, `score` (the probability of the label) and `scores` (of all labels, or of the `top_k` likeliest).
    For multi-label the first two are lists. For a regression, which has no decision, there is only `label`, the number.
    `compact`: without blanks, as rows of a table are written.
    """
    comma, colon = (",", ":") if compact else (", ", ": ")
    label, score, scores = (json.dumps(prefix + name, ensure_ascii=False) for name in ADDED)
    if decision is None:
        values = [[_format_number(value) for value in row] for row in logits.tolist()]
        return [f"{label}{colon}{row[0] if len(row) == 1 else f'[{comma.join(row)}]'}" for row in values]
    probabilities = decision.compute_saved_probabilities(logits)
    names = [json.dumps(name, ensure_ascii=False) for name in decision.labels]
    shown = _select_labels(probabilities, top_k)
    fields = []
    for row, choice, places in zip(probabilities.tolist(), decision.choose(probabilities).tolist(), shown, strict=True):
        numbers = [_format_number(value) for value in row]
        chosen = [place for place, given in enumerate(choice) if given] if decision.kind == "multi" else choice
        what, sure = (_format_chosen(each, chosen, comma) for each in (names, numbers))
        every = comma.join(f"{names[place]}{colon}{numbers[place]}" for place in places)
        fields.append(comma.join([f"{label}{colon}{what}", f"{score}{colon}{sure}", f"{scores}{colon}{{{every}}}"]))
    return fields


def _select_labels(probabilities: Array, top_k: int | None) -> list[list[int]]:
    """Return the labels in `scores` of each row, likeliest first under `top_k`: (rows, labels) -> rows x labels."""
    rows, labels = probabilities.shape
    if top_k is None:
        return [list(range(labels))] * rows
    order: list[list[int]] = np.argsort(-probabilities, axis=1, kind="stable")[:, :top_k].tolist()
    return order


def _format_chosen(written: Sequence[str], chosen: int | list[int], comma: str) -> str:
    return written[chosen] if isinstance(chosen, int) else f"[{comma.join(written[place] for place in chosen)}]"


def _format_number(value: float) -> str:
    """Format six digits, about the precision of float32; always as a float, so that a column has one type."""
    return repr(float(f"{value:.6g}"))
