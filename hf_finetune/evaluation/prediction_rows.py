"""A file's lines -> the texts that a classifier labels; its answers -> the same lines with fields added.

A line is never written anew: what is added is put before its last brace, and all else keeps its bytes.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import msgspec
import numpy as np
from msgspec import UNSET, UnsetType

from hf_finetune.data.decoding import RowDecoder
from hf_finetune.data.formats import Columns, RowFormat
from hf_finetune.data.lines import LineBlock, check_form, line_blocks, read_chunks
from hf_finetune.data.reader import is_blank
from hf_finetune.data.strict_json import BadLine, shown_key, strict_object
from hf_finetune.errors import Problem
from hf_finetune.models.decisions import Array, Decision

ADDED = ("label", "score", "scores")
WINDOW_ROWS = 4096
WINDOW_BYTES = 8 * 1024**2
MAX_LINE_BYTES = 16 * 1024**2

TAKEN_REMEDY = "give the added fields other names, for example with --prefix predicted_"


@dataclass(slots=True)
class Window:
    """Some consecutive rows of a file: the line as it stands there, its number, text and second text of each."""

    lines: list[bytes] = field(default_factory=list)
    numbers: list[int] = field(default_factory=list)
    texts: list[str] = field(default_factory=list)
    pairs: list[str | None] = field(default_factory=list)
    problems: list[Problem] = field(default_factory=list)
    """What is wrong with each line that is left out."""
    taken: Problem | None = None
    """The first of them that is about a row with a field of the name of one to be added."""
    size: int = 0
    """Of all its lines, in bytes."""

    @property
    def full(self) -> bool:
        return len(self.lines) + len(self.problems) >= WINDOW_ROWS or self.size >= WINDOW_BYTES


def read_windows(path: Path, shown: str, prefix: str) -> Iterator[Window]:
    """Yield the rows of a JSONL file (`-` is standard input) in order, some thousand at a time; at least one window.

    A row has `text`, and perhaps `text_pair`, or `input`: the first row of either decides. Blank lines are passed over.
    Raises `DataError` where the file as a whole is no JSONL.
    """
    window, decoder = Window(), None
    for block in line_blocks(_checked(read_chunks(path, shown), shown), MAX_LINE_BYTES):
        if decoder is None and (first := _first_text(block.lines)):
            decoder = _decoder(first, prefix)
        _add_block(window, block, decoder or _decoder({"text": ""}, prefix), shown)
        if window.full:
            yield window
            window = Window()
    yield window


def _checked(chunks: Iterator[bytes], shown: str) -> Iterator[bytes]:
    for number, chunk in enumerate(chunks):
        if number == 0:
            check_form(chunk, shown)
        yield chunk


def _first_text(lines: Sequence[bytes]) -> dict[str, Any] | None:
    for line in lines:
        try:
            row = strict_object(line)
        except BadLine:
            continue
        if "text" in row or "input" in row:
            return row
    return None


def _decoder(first: dict[str, Any], prefix: str) -> RowDecoder:
    """Rows with the fields of `first`; those that would be added are of any type, and are refused afterwards."""
    fields: list[Any] = [(name, Any, UNSET) for name in ADDED]
    names = {name: prefix + name for name in ADDED}
    if "text" in first:
        pair = ("text_pair", str | UnsetType | None, UNSET)
        row_type = msgspec.defstruct(
            "TextRow", [("text", str), pair, *fields], rename=names, forbid_unknown_fields=True, gc=False
        )
        row_format = RowFormat("text", "document", ("text",), row_type, _texts, ("text_pair",))
    else:
        row_type = msgspec.defstruct(
            "InputRow", [("input", str), *fields], rename=names, forbid_unknown_fields=True, gc=False
        )
        row_format = RowFormat("input_output", "document", ("input",), row_type, _inputs)
    return RowDecoder(row_format, (), first)


def _texts(rows: Sequence[Any]) -> Columns:
    pairs = [None if row.text_pair is UNSET else row.text_pair for row in rows]
    return {"text": [row.text for row in rows], "text_pair": pairs}


def _inputs(rows: Sequence[Any]) -> Columns:
    return {"text": [row.input for row in rows], "text_pair": [None] * len(rows)}


def _add_block(window: Window, block: LineBlock, decoder: RowDecoder, shown: str) -> None:
    window.size += len(block.data)
    if block.overlong is not None:
        what = f"the line has {block.overlong:,} bytes, more than the limit of {MAX_LINE_BYTES:,}"
        window.problems.append(Problem(what, "split it", shown, block.first_line))
    rows = decoder.block(block.data, block.lines) if block.lines else []
    if rows is None or any(_is_taken(row) for row in rows):
        rows = _line_by_line(window, block, decoder, shown)
    else:
        window.lines += block.lines
        window.numbers += range(block.first_line, block.first_line + len(rows))
    columns = decoder.row_format.columns(rows)
    window.texts += columns["text"]
    window.pairs += columns["text_pair"]


def _is_taken(row: Any) -> bool:
    return row.label is not UNSET or row.score is not UNSET or row.scores is not UNSET


def _line_by_line(window: Window, block: LineBlock, decoder: RowDecoder, shown: str) -> list[Any]:
    rows = []
    for number, line in enumerate(block.lines, block.first_line):
        if is_blank(line):
            continue
        try:
            row = decoder.line(line, f"{shown}:{number}")
        except BadLine as bad:
            window.problems.append(Problem(bad.reason, bad.remedy, shown, number, bad.key))
            continue
        if _is_taken(row):
            window.problems.append(Problem(_taken(row, decoder), TAKEN_REMEDY, shown, number))
            window.taken = window.taken or window.problems[-1]
            continue
        rows.append(row)
        window.lines.append(line)
        window.numbers.append(number)
    return rows


def _taken(row: Any, decoder: RowDecoder) -> str:
    values = {"label": row.label, "score": row.score, "scores": row.scores}
    held = [key for key, name in decoder.attributes.items() if values.get(name, UNSET) is not UNSET]
    return f"the row has {' and '.join(map(shown_key, held))} already, which would be added"


def with_fields(line: bytes, added: str) -> bytes:
    """A line that holds one JSON object of at least one field, with more of them at its end, and a line break."""
    end = line.rindex(b"}")
    return b"%b, %b%b\n" % (line[:end], added.encode(), line[end:])


def added_fields(logits: Array, decision: Decision | None, prefix: str, top_k: int | None) -> list[str]:
    """The JSON text of the fields that each row gets, for the saved model's logits, (rows, labels).

    `label`, `score` (the label's probability) and `scores` (of all labels, or of the `top_k` likeliest). Of any number
    of labels, the first two are lists. Without a decision the logits are numbers, and `label` is all there is.
    """
    label, score, scores = (json.dumps(prefix + name, ensure_ascii=False) for name in ADDED)
    if decision is None:
        return [f"{label}: {_value([_number(value) for value in row])}" for row in logits.tolist()]
    probabilities = decision.saved_probabilities(logits)
    names = [json.dumps(name, ensure_ascii=False) for name in decision.labels]
    shown = _shown_labels(probabilities, top_k)
    fields = []
    for row, choice, places in zip(probabilities.tolist(), decision.choose(probabilities).tolist(), shown, strict=True):
        numbers = [_number(value) for value in row]
        chosen = [place for place, given in enumerate(choice) if given] if decision.kind == "multi" else choice
        what, sure = _listed(names, chosen), _listed(numbers, chosen)
        every = ", ".join(f"{names[place]}: {numbers[place]}" for place in places)
        fields.append(f"{label}: {what}, {score}: {sure}, {scores}: {{{every}}}")
    return fields


def _shown_labels(probabilities: Array, top_k: int | None) -> list[list[int]]:
    rows, labels = probabilities.shape
    if top_k is None:
        return [list(range(labels))] * rows
    order: list[list[int]] = np.argsort(-probabilities, axis=1, kind="stable")[:, :top_k].tolist()
    return order


def _listed(written: Sequence[str], chosen: int | list[int]) -> str:
    if isinstance(chosen, int):
        return written[chosen]
    return f"[{', '.join(written[place] for place in chosen)}]"


def _value(numbers: list[str]) -> str:
    return numbers[0] if len(numbers) == 1 else f"[{', '.join(numbers)}]"


def _number(value: float) -> str:
    """Six digits, of which a model in float32 has hardly more; always as a float, so that a column has one type."""
    return repr(float(f"{value:.6g}"))
