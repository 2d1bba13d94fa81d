"""The texts and labels of rows of any format, some thousand at a time."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from datasets import Dataset

from hf_finetune.data.splitting.assignment import Rows
from hf_finetune.data.splitting.batches import iterate_batches
from hf_finetune.data.splitting.splits import Splits
from hf_finetune.preflight.findings import MAX_PLACES, Place


def number_rows(rows: Dataset) -> tuple[Rows, Rows]:
    """Number the rows of a data set in the order of its table, each once: there, and in the data set, (rows,) both."""
    if rows._indices is None:
        every = np.arange(len(rows), dtype=np.int64)
        return every, every
    # Of a data set that shows the rows [5 2 5] of its table, the numbers are [2 5], and they stand there at [1 0].
    numbers = np.asarray(rows._indices.column(0).to_numpy()).astype(np.int64)
    order = np.argsort(numbers, kind="stable")
    ordered = numbers[order]
    # Weights repeat rows.
    first = np.append(True, ordered[1:] != ordered[:-1])[: len(ordered)]
    return ordered[first], order[first]


def iterate_texts(rows: Dataset, numbers: Rows | None = None) -> Iterator[tuple[int, pa.Array]]:
    """Yield the text of each row, (rows of the batch,), with the place of the first of them in `numbers`.

    `numbers`: ascending rows of the table, (rows,), by default all of `number_rows`. The texts of a row's messages, or
    of its prompt and completion, stand line by line, with what messages hold beside (calls of tools).
    """
    for start, batch in iterate_batches(rows, number_rows(rows)[0] if numbers is None else numbers):
        yield start, join_texts(batch)


def join_texts(batch: pa.RecordBatch) -> pa.Array:
    """Join the texts of each row of a batch: (rows,)."""
    names = batch.schema.names
    if "messages" in names:
        return _join_messages(batch.column("messages"))
    pair = ("prompt", "completion") if "prompt" in names else ("text", "text_pair")
    columns = [batch.column(name) for name in pair if name in names]
    # Without "skip" a row that has no pair would be null, and none of its text be looked at.
    return pc.binary_join_element_wise(*columns, "\n", null_handling="skip")


def _join_messages(messages: Any) -> pa.Array:
    # Not `values`, which of a slice of an array has the messages of all of it.
    turns = messages.flatten()
    said = pc.binary_join_element_wise(turns.field("content"), turns.field("extra"), "\n", null_handling="skip")
    ends = np.cumsum(messages.value_lengths().fill_null(0).to_numpy(zero_copy_only=False))
    offsets = pa.array(np.append(0, ends).astype(np.int32))
    return pc.binary_join(pa.ListArray.from_arrays(offsets, said), "\n")


def tally_labels(rows: Dataset) -> Counter[str]:
    """Count the rows of each label; one that has several counts with each."""
    counts: Counter[str] = Counter()
    for _, batch in iterate_batches(rows.select_columns(["label"]), number_rows(rows)[0]):
        column = batch.column(0)
        values = column.flatten() if pa.types.is_list(column.type) or pa.types.is_large_list(column.type) else column
        for each in pc.value_counts(values):
            counts[str(each["values"].as_py())] += each["counts"].as_py()
    return counts


def list_places(splits: Splits, split: str, rows: Rows) -> tuple[Place, ...]:
    """Return where the first `MAX_PLACES` of `rows` (rows,) of a split stand."""
    return tuple(Place(*splits.locate(split, int(row))) for row in rows[:MAX_PLACES])


def list_pairs(one: tuple[Splits, str, Rows], other: tuple[Splits, str, Rows]) -> tuple[Place, ...]:
    """Return where pairs of rows, (pairs,) each, stand: one behind the other, up to `MAX_PLACES` rows."""
    shown = MAX_PLACES // 2
    sides = [list_places(splits, split, rows[:shown]) for splits, split, rows in (one, other)]
    return tuple(place for pair in zip(*sides, strict=True) for place in pair)
