"""Parquet files, Arrow files and Arrow streams -> rows, some at a time; what JSON does not have is written as text."""

from __future__ import annotations

import json
import math
from collections import Counter
from collections.abc import Iterator, Mapping
from datetime import date, datetime, time, timedelta
from pathlib import Path
from typing import TYPE_CHECKING, Any, BinaryIO

import pyarrow as pa
import pyarrow.parquet as pq

from hf_finetune.data.reading.json_line import MAX_KEYS, LineError, explain_width, format_key
from hf_finetune.data.reading.tables.rows import Table, TableRow
from hf_finetune.errors import DataError, Problem

if TYPE_CHECKING:
    from datasets import Dataset  # seconds of imports, which a file needs none of

# `to_pylist` makes Python objects of a whole batch: of 65,536 rows of 4 KB, a usual row group, some 300 MB.
ROWS_AT_ONCE = 256
_BUFFER_BYTES = 1024 * 1024
_ARROW_FILE = b"ARROW1"


def open_parquet(path: Path | BinaryIO, shown: str) -> Table:
    """Open a Parquet file. Raises DataError where it is damaged or empty."""
    try:
        # Without pre_buffer and with a small buffer, no whole column of a row group is held.
        file = pq.ParquetFile(path, pre_buffer=False, buffer_size=_BUFFER_BYTES)
        return _open(file.schema_arrow, lambda names: file.iter_batches(ROWS_AT_ONCE, columns=names), shown)
    except (pa.ArrowException, OSError) as error:
        raise DataError(_explain_damage("Parquet", shown, error)) from None


def open_arrow(path: Path, shown: str) -> Table:
    """Open an Arrow file or stream, as `datasets` keeps them; see `open_parquet`."""
    try:
        source = pa.memory_map(str(path))
        if source.read(len(_ARROW_FILE)) == _ARROW_FILE:
            file = pa.ipc.open_file(source)
            batches = (file.get_batch(number) for number in range(file.num_record_batches))
            return _open(file.schema, lambda names: (batch.select(names) for batch in batches), shown)
        # A stream has no magic bytes: it begins with the length of its schema, as the .arrow files of `datasets` do.
        source.seek(0)
        stream = pa.ipc.open_stream(source)
        return _open(stream.schema, lambda names: (batch.select(names) for batch in stream), shown)
    except (pa.ArrowException, OSError) as error:
        raise DataError(_explain_damage("Arrow", shown, error)) from None


def open_dataset(rows: Dataset, shown: str) -> Table:
    """Open a data set of `datasets`; see `open_parquet`."""
    batches = rows.with_format("arrow")
    return _open(
        rows.features.arrow_schema,
        lambda names: (
            batch
            for table in batches.select_columns(names).iter(ROWS_AT_ONCE)
            for batch in table.combine_chunks().to_batches()
        ),
        shown,
    )


def _explain_damage(kind: str, shown: str, error: Exception) -> Problem:
    reason = str(error).strip().splitlines()
    detail = reason[0][:120] if reason else type(error).__name__
    return Problem(f"the {kind} file is damaged or cut off ({detail})", "copy it again", shown, code="HF004")


def _open(schema: pa.Schema, read: Any, shown: str) -> Table:
    """Open a table of `schema` whose batches `read(names)` gives; columns that JSON cannot hold are left out."""
    if len(schema.names) > MAX_KEYS:
        raise DataError(Problem(*explain_width(len(schema.names), "columns"), shown, code="HF014"))
    twice = sorted(name for name, count in Counter(schema.names).items() if count > 1)
    if twice:
        raise DataError(
            [
                Problem(f"the column {format_key(name)} occurs twice", "rename one", shown, code="HF061")
                for name in twice
            ]
        )
    binary = [field.name for field in schema if _holds_binary(field.type)]
    names = [name for name in schema.names if name not in binary]
    listed = ", ".join(map(format_key, binary))
    notes = (f"binary columns are left out, which JSON does not have: {listed}",) if binary else ()
    if not names:
        raise DataError(Problem(f"all columns are binary: {listed}", "cast texts to strings", shown, code="HF065"))
    columns = {name: _list_inside(schema.field(name).type) for name in names}
    return Table(columns, _read_rows(read(names), shown, _read_features(schema)), notes)


def _read_features(schema: pa.Schema) -> dict[str, Any]:
    """What `datasets` has written into a schema of the meaning of its columns; {} where it has written nothing."""
    # {"info": {"features": {"label": {"names": ["no", "yes"], "_type": "ClassLabel"}}}}
    try:
        features = json.loads((schema.metadata or {})[b"huggingface"])["info"]["features"]
    except (KeyError, TypeError, ValueError):
        return {}
    return features if isinstance(features, dict) else {}


def _list_inside(kind: pa.DataType) -> dict[str, Any] | None:
    """The names inside a column of objects; None for one of values."""
    if not pa.types.is_struct(kind):
        return None
    return {kind.field(number).name: _list_inside(kind.field(number).type) for number in range(kind.num_fields)}


def _holds_binary(kind: pa.DataType) -> bool:
    if isinstance(kind, pa.BaseExtensionType):
        return _holds_binary(kind.storage_type)
    if pa.types.is_dictionary(kind):
        return _holds_binary(kind.value_type)
    # An image of `datasets` is a struct {bytes, path}: with its bytes all of it is left out, as half a value misleads.
    if pa.types.is_nested(kind):
        return any(_holds_binary(kind.field(number).type) for number in range(kind.num_fields))
    return bool(
        pa.types.is_binary(kind)
        or pa.types.is_large_binary(kind)
        or pa.types.is_fixed_size_binary(kind)
        or pa.types.is_binary_view(kind)
    )


def _read_rows(batches: Iterator[pa.RecordBatch], shown: str, features: Mapping[str, Any]) -> Iterator[TableRow]:
    number = 0
    try:
        for batch in batches:
            for start in range(0, batch.num_rows, ROWS_AT_ONCE):
                for row in _to_python(batch.slice(start, ROWS_AT_ONCE)):
                    number += 1
                    yield _build_row(number, row, features)
    except (pa.ArrowException, OSError) as error:
        raise DataError(_explain_damage("table", shown, error)) from None
    if not number:
        raise DataError(Problem("the table has no rows", "put rows into it, or leave it out", shown, code="HF007"))


def _to_python(rows: pa.RecordBatch) -> list[dict[str, Any] | LineError]:
    """Convert rows to Python's objects, and one that has a text which is not UTF-8 to its fault."""
    # Arrow keeps the bytes of texts as they come, and looks at them no sooner than here.
    try:
        whole: list[dict[str, Any] | LineError] = rows.to_pylist()
    except UnicodeDecodeError:
        if rows.num_rows == 1:
            return [
                LineError("a byte of the row is not UTF-8", "write the file again with texts in UTF-8", code="HF003")
            ]
        half = rows.num_rows // 2
        return [*_to_python(rows.slice(0, half)), *_to_python(rows.slice(half))]
    return whole


def _build_row(number: int, row: dict[str, Any] | LineError, features: Mapping[str, Any]) -> TableRow:
    if isinstance(row, LineError):
        return TableRow(number, number, None, row)
    # Spreadsheets and pandas write an empty row as nulls: blank, as an empty line is in JSONL.
    if all(value is None for value in row.values()):
        return TableRow(number, number, None)
    try:
        named = {name: _name_labels(value, features.get(name)) for name, value in row.items()}
        return TableRow(number, number, {name: _to_json(value, name) for name, value in named.items()})
    except LineError as bad:
        return TableRow(number, number, None, bad)


def _name_labels(value: Any, feature: Any) -> Any:
    """Put the name of a label in the place of its number, at any depth, where `feature` (of `datasets`) has names."""
    # A list is [feature], or {"feature": ..., "_type": "List"} since datasets 4; a struct {"name": feature, ...}.
    if value is None or not isinstance(feature, dict | list) or not feature:
        return value
    inner = feature[0] if isinstance(feature, list) else feature.get("feature")
    if isinstance(feature, dict) and feature.get("_type") == "ClassLabel":
        names = feature.get("names") or []
        return names[value] if isinstance(value, int) and 0 <= value < len(names) else None  # -1 is no label
    if isinstance(value, list) and inner is not None:
        return [_name_labels(each, inner) for each in value]
    if isinstance(value, dict) and isinstance(feature, dict):
        return {name: _name_labels(each, feature.get(name)) for name, each in value.items()}
    return value


def _to_json(value: Any, name: str) -> Any:
    """Convert a value of an Arrow table to what JSON has: times and decimals to text, NaN to null, structs to objects.

    Raises LineError for an infinite number.
    """
    if value is None or isinstance(value, str | bool | int):
        return value
    if isinstance(value, float):
        if math.isinf(value):
            raise LineError(
                f"{format_key(name)} holds an infinite number, which JSON does not have", "leave it out", code="HF013"
            )
        return None if math.isnan(value) else value  # pandas writes a missing number as NaN
    if isinstance(value, dict):
        # A struct has all fields in every row: absent ones come back as None, and would be keys too many.
        return {str(key): _to_json(each, name) for key, each in value.items() if each is not None}
    if isinstance(value, list):
        if value and isinstance(value[0], tuple):  # a map
            return {str(key): _to_json(each, name) for key, each in value}
        return [_to_json(each, name) for each in value]
    # Of nanoseconds pyarrow makes pandas' Timestamp, which is a datetime and writes all nine digits.
    if isinstance(value, datetime | date | time):
        return value.isoformat()
    if isinstance(value, timedelta):
        return value.total_seconds()
    return str(value)  # a decimal, exactly as it is; a UUID
