"""Data sets of the Hub's library: names of labels, and what a table adds to objects that nobody wrote there."""

from __future__ import annotations

import json
from pathlib import Path

import datasets
import pytest
from datasets import ClassLabel, Dataset, Features, List, Value

from hf_finetune.data.reading.sources import resolve_sources
from hf_finetune.data.reading.tables.convert import RowsOptions, convert_rows

NAMES = ["ham", "spam", "0"]
LABELLED = Dataset.from_list(
    [{"text": "a", "label": 1, "tags": [2, 0]}, {"text": "b", "label": -1, "tags": []}, {"text": "c", "label": 0}],
    features=Features(
        {"text": Value("string"), "label": ClassLabel(names=NAMES), "tags": List(ClassLabel(names=NAMES))}
    ),
)
CALLS = [
    {"name": "weather", "arguments": {"city": "Rome", "days": [{"from": 1}]}},
    {"name": "search", "arguments": {"query": "cats", "days": [{"to": 2}]}},
]


def read_hub(rows: Dataset, folder: Path, monkeypatch: pytest.MonkeyPatch) -> list[dict[str, object]]:
    monkeypatch.setattr(datasets, "load_dataset", lambda *_, **__: rows)
    [file] = resolve_sources("org/rows", "train", "auto")
    return [json.loads(line) for line in file.path.read_text().splitlines()]


def read_parquet(rows: Dataset, folder: Path, monkeypatch: pytest.MonkeyPatch) -> list[dict[str, object]]:
    rows.to_parquet(folder / "rows.parquet")
    convert_rows(folder / "rows.parquet", folder / "rows.jsonl", RowsOptions(on_bad_line="skip"))
    return [json.loads(line) for line in (folder / "rows.jsonl").read_text().splitlines()]


def read_arrow(rows: Dataset, folder: Path, monkeypatch: pytest.MonkeyPatch) -> list[dict[str, object]]:
    rows.save_to_disk(folder / "saved")
    [file] = (folder / "saved").glob("*.arrow")
    convert_rows(file, folder / "rows.jsonl", RowsOptions(on_bad_line="skip"))
    return [json.loads(line) for line in (folder / "rows.jsonl").read_text().splitlines()]


each_way = pytest.mark.parametrize("read", [read_hub, read_parquet, read_arrow])


@each_way
def test_labels_keep_their_names(read, tmp_path, monkeypatch):
    found = {row["text"]: row for row in read(LABELLED, tmp_path, monkeypatch)}
    assert found["a"] == {"text": "a", "label": "spam", "tags": ["0", "ham"]}
    # -1 is what `datasets` writes for no label, and a table's row without one is left out.
    assert {key for key, value in found.get("b", {}).items() if value is not None} <= {"text", "tags"}
    assert found["c"]["label"] == LABELLED.features["label"].int2str(0) == "ham"


@each_way
def test_arguments_that_nobody_wrote_are_not_there(read, tmp_path, monkeypatch):
    messages = [
        [{"role": "user", "content": "?"}, {"role": "assistant", "tool_calls": [{"function": call}]}] for call in CALLS
    ]
    rows = Dataset.from_list([{"messages": each} for each in messages])
    assert rows[0]["messages"][1]["tool_calls"][0]["function"]["arguments"]["query"] is None  # what Arrow has made
    assert [row["messages"] for row in read(rows, tmp_path, monkeypatch)] == messages


def test_rows_of_a_part_of_a_data_set_are_those_rows(tmp_path, monkeypatch):
    rows = Dataset.from_dict({"text": [f"row {number}" for number in range(600)]}).select([599, 3, 300])
    assert read_hub(rows, tmp_path, monkeypatch) == [{"text": "row 599"}, {"text": "row 3"}, {"text": "row 300"}]
