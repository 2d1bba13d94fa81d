"""Tables larger than the memory: walked in order, by their record batches, whatever is in them."""

from __future__ import annotations

import json
import zipfile
from pathlib import Path

import numpy as np
import pyarrow as pa
import pytest
from datasets import Dataset

import hf_finetune.data.splitting.batches as batches_module
import hf_finetune.data.splitting.train_prints as train_prints_module
from hf_finetune.config.sections import DataSection
from hf_finetune.data.reading.formats import get_features
from hf_finetune.data.splitting.batches import encode_values, iterate_batches, read_values
from hf_finetune.data.splitting.overlap import find_overlap
from hf_finetune.data.splitting.seen_rows import keep_row_prints
from hf_finetune.data.splitting.splits import load_splits
from hf_finetune.row_prints import map_arrays, read_row_prints, write_arrays


def chunked(*lengths: int) -> Dataset:
    """A table of numbered rows in chunks of these lengths."""
    ends = np.cumsum(lengths)
    parts = [
        pa.table({"text": [f"t{row}" for row in range(end - length, end)], "n": list(range(end - length, end))})
        for length, end in zip(lengths, ends, strict=True)
    ]
    return Dataset(pa.concat_tables(parts))


@pytest.mark.parametrize("wanted", [[], [0], [2, 3, 8], [4], [0, 1, 2, 3, 4, 5, 6, 7, 8, 9]])
def test_rows_of_several_chunks_come_in_order_and_each_once(monkeypatch, wanted):
    monkeypatch.setattr(batches_module, "ROWS_AT_ONCE", 2)
    table, numbers = chunked(3, 1, 4, 2), np.array(wanted, dtype=np.int64)
    found = [(start, batch.column("n").to_pylist()) for start, batch in iterate_batches(table, numbers)]
    assert [row for _, rows in found for row in rows] == wanted
    assert all(rows == wanted[start : start + len(rows)] and len(rows) <= 2 for start, rows in found)
    assert read_values(table, "text", numbers) == [f"t{row}" for row in wanted]


def test_values_are_encoded_in_the_order_of_their_first_rows_over_all_chunks():
    table = Dataset(pa.concat_tables([pa.table({"key": part}) for part in (["b", "a", "b"], ["c", "a"], ["d", "b"])]))
    codes, values = encode_values(table, "key")
    assert (codes.tolist(), values) == ([0, 1, 0, 2, 1, 3, 0], ["b", "a", "c", "d"])


def test_a_file_of_rows_that_lost_some_of_them_is_not_read_as_a_whole(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    Path("rows.jsonl").write_text("".join(json.dumps({"text": f"t{row}"}) + "\n" for row in range(9)))
    rows = load_splits(DataSection(train="rows.jsonl"), "document", 0).rows["train"]
    for table in (rows, rows.select(range(4, 9))):
        [(start, batch)] = iterate_batches(table, np.array([1, 3]))
        assert start == 0
        assert batch.column("text").to_pylist() == [table[1]["text"], table[3]["text"]]


def test_more_than_two_gib_of_text_are_compared_with_a_split():
    # The same 8 MiB of text again and again, without a copy: 2.3 GiB to Arrow. One of the rows is the validation split.
    long = "word " * 2**20

    def rows(texts: list[str]) -> pa.Table:
        said = [{"role": "user", "content": text, "train": None, "weight": None, "extra": None} for text in texts]
        columns = {"messages": [[each] for each in said], "tools": [None] * len(texts)}
        return pa.table(columns, schema=get_features("conversation").arrow_schema)

    big = rows([long, long[1:]]).slice(0, 1)
    repeated = pa.concat_tables([*[big] * 480, rows(["the last one"])])
    table = Dataset(repeated, fingerprint="big")  # which else is a hash of all of it
    assert table.data.nbytes > 2**31
    numbers = np.array([0, 480])  # of every other batch nothing is wanted
    found = find_overlap((table, numbers), {"test": (Dataset(rows(["new", "The Last ONE"])), np.arange(2))})["test"]
    assert found.copy_of.tolist() == [-1, 1]
    with pytest.raises(pa.ArrowInvalid, match="offset overflow"):  # what this is for
        table.data.table.column("messages").combine_chunks()


def test_what_a_first_start_has_found_a_second_one_reads(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    pairs = [{"question": f"What is {n % 70}?", "answer": f"It is {n % 70}."} for n in range(90)]
    Path("rows.jsonl").write_text("".join(json.dumps(row) + "\n" for row in pairs))
    data = DataSection(train="rows.jsonl", validation_fraction=0.3)
    first = load_splits(data, "conversation", 0)
    keep_row_prints(tmp_path, first, resume=False)
    prints = read_row_prints(tmp_path)

    def fail(*_: object) -> None:
        raise AssertionError("it is computed again")

    monkeypatch.setattr(train_prints_module, "find_overlap", fail)
    monkeypatch.setattr(train_prints_module, "iterate_fingerprints", fail)
    again = load_splits(data, "conversation", 0)
    keep_row_prints(tmp_path, again, resume=False)
    assert again.overlap == first.overlap != {}
    assert again.format_row_hashes("validation") == first.format_row_hashes("validation")
    assert read_row_prints(tmp_path).texts.tolist() == prints.texts.tolist()
    with pytest.raises(AssertionError, match="computed again"):  # other rows are looked at
        load_splits(data, "conversation", 1)


def test_arrays_are_mapped_where_they_stand_and_a_changed_byte_is_noticed(tmp_path):
    path = tmp_path / "prints.npz"
    arrays = {"a": np.arange(5, dtype=np.uint64), "of/none": np.empty(0, np.uint64), "b": np.arange(3, dtype=np.uint8)}
    write_arrays(path, arrays)
    found = map_arrays(path)
    assert {name: each.tolist() for name, each in found.items()} == {
        name: each.tolist() for name, each in arrays.items()
    }
    assert isinstance(found["a"], np.memmap)
    place = path.read_bytes().index(arrays["a"].tobytes())
    assert place % 64 == 0
    assert len({id(each._mmap) for each in found.values() if len(each)}) == 1  # each map keeps a file open
    with np.load(path) as loaded:  # numpy's own reader takes the same file
        assert loaded["of/none"].tolist() == []
        assert loaded["a"].tolist() == arrays["a"].tolist()
    content = bytearray(path.read_bytes())
    content[place + 8] ^= 1
    path.write_bytes(content)
    with pytest.raises(zipfile.BadZipFile, match="changed"):
        map_arrays(path)
