"""What `predict` reads of a row: `text`, and perhaps `text_pair`, or `input`."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from msgspec import UNSET, Struct, UnsetType

from hf_finetune.data.reading.formats import Columns, RowFormat
from hf_finetune.data.reading.row_decoder import RowDecoder
from hf_finetune.evaluation.prediction.added_fields import ADDED
from hf_finetune.evaluation.prediction.rows import RowKind, accept_added


class TextRow(Struct, forbid_unknown_fields=True, gc=False):
    text: str
    text_pair: str | UnsetType | None = UNSET


class InputRow(Struct, forbid_unknown_fields=True, gc=False):
    input: str


def make_text_kind(prefix: str) -> RowKind:
    """The rows of texts to label, which get fields of the names `ADDED` behind `prefix`."""
    added = tuple(prefix + name for name in ADDED)

    def make_decoder(first: Mapping[str, Any]) -> RowDecoder:
        if "text" in first:
            row_type = accept_added(TextRow, added)
            row_format = RowFormat("text", "document", ("text",), row_type, _collect_texts, ("text_pair",))
        else:
            row_format = RowFormat(
                "input_output", "document", ("input",), accept_added(InputRow, added), _collect_inputs
            )
        return RowDecoder(row_format, (), first)

    return RowKind(("text", "input"), make_decoder, added)


def _collect_texts(rows: Sequence[Any]) -> Columns:
    pairs = [None if row.text_pair is UNSET else row.text_pair for row in rows]
    return {"text": [row.text for row in rows], "text_pair": pairs}


def _collect_inputs(rows: Sequence[Any]) -> Columns:
    return {"text": [row.input for row in rows], "text_pair": [None] * len(rows)}
