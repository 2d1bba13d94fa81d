"""Batches hold so many bytes, or one row, whatever the rows are and wherever they stand; all of them come, in order."""

from __future__ import annotations

import numpy as np
import pytest
from datasets import Dataset

from hf_finetune.data.tokenization import batches
from hf_finetune.data.tokenization.batches import iterate_batches

TEXTS = ["a" * size for size in (3, 0, 40, 100, 1, 1, 1, 1, 250, 2)]


@pytest.fixture(autouse=True)
def _small(monkeypatch):
    monkeypatch.setattr(batches, "BATCH_BYTES", 50)
    monkeypatch.setattr(batches, "ROWS_PER_BATCH", 3)


@pytest.mark.parametrize("selected", [None, "falling", "rising"])
def test_a_batch_has_so_many_bytes_and_rows_at_most(selected):
    texts = {None: TEXTS, "falling": ["other", *TEXTS[::-1]], "rising": [each for text in TEXTS for each in ("", text)]}
    rows = Dataset.from_dict({"text": texts[selected]})
    if selected is not None:
        size = len(TEXTS)
        rows = rows.select(np.arange(size, 0, -1) if selected == "falling" else np.arange(1, 2 * size, 2))
    found = [(first, table.column("text").to_pylist()) for first, table in iterate_batches(rows, ["text"])]
    assert [text for _, texts in found for text in texts] == TEXTS
    assert [first for first, _ in found] == np.cumsum([0, *(len(texts) for _, texts in found)])[:-1].tolist()
    assert all(len(texts) <= 3 and (len(texts) == 1 or len("".join(texts)) <= 50) for _, texts in found)
    assert len(found) == 6


def test_the_bytes_inside_of_lists_and_structs_are_counted():
    said = [[{"role": "u", "content": "é" * 10, "extra": None}], [], [{"role": "u", "content": "a", "extra": "b" * 60}]]
    table = Dataset.from_dict({"messages": said}).data.table.slice(0)
    assert batches._count_bytes(table.column("messages")).tolist() == [21, 0, 62]
    assert batches._count_bytes(table.slice(2).column("messages")).tolist() == [62]
