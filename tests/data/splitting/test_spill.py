"""More rows than memory holds: what is sorted, counted and joined on disk, against sets, dicts and `sorted`."""

from __future__ import annotations

import errno
import hashlib
import json
import logging
import re
import subprocess
import sys
from pathlib import Path

import datasets
import numpy as np
import psutil
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

import hf_finetune.cache.arrays as arrays_module
import hf_finetune.data.splitting.spill as spill_module
import hf_finetune.data.splitting.splits as splits_module
from hf_finetune.cache.arrays import iterate_pieces, map_numbers
from hf_finetune.config.sections import DataSection
from hf_finetune.data.splitting.seen_rows import keep_row_prints
from hf_finetune.data.splitting.spill import PARTS, Spill, find_places, find_repeats, hash_membership, iterate_distinct
from hf_finetune.data.splitting.splits import load_splits
from hf_finetune.errors import CannotWriteError
from hf_finetune.row_prints import read_row_prints

# Few values, so that many are equal, at both ends of all and in the same part.
HASHES = st.lists(st.sampled_from([0, 1, 2**56 - 1, 2**56, 2**63, 2**64 - 2, 2**64 - 1]) | st.integers(0, 2**64 - 1))


@pytest.fixture(scope="module", autouse=True)
def small(tmp_path_factory):
    """A few hashes at once are many: everything is written, read in pieces and merged."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(spill_module, "HELD_AT_ONCE", 4)
        patch.setattr(spill_module, "COMPARED_AT_ONCE", 3)
        patch.setattr(arrays_module, "PIECE", 5)
        patch.setattr(datasets.config, "HF_DATASETS_CACHE", tmp_path_factory.mktemp("cache"))
        yield


def cut(values, at_once=3):
    hashes = np.array(values, np.uint64)
    return [
        (hashes[start : start + at_once], np.arange(start, min(start + at_once, len(hashes))))
        for start in range(0, len(hashes), at_once)
    ]


@settings(max_examples=60, deadline=None)
@given(values=HASHES)
def test_each_hash_comes_back_with_its_number_and_the_first_and_the_count_of_equal_ones_are_known(values):
    spill = Spill()
    for hashes, numbers in cut(values):
        spill.add(hashes, numbers)
    read = [
        (int(value), int(number))
        for part in range(PARTS)
        for some in spill.read(part)
        for value, number in zip(*some, strict=True)
    ]
    assert sorted(read) == sorted(zip(values, range(len(values)), strict=True))
    found = [spill.read_distinct(part) for part in range(PARTS)]
    assert [value for each in found for value in each.hashes.tolist()] == sorted(set(values))
    assert [row for each in found for row in each.firsts.tolist()] == [
        values.index(each) for each in sorted(set(values))
    ]
    assert [count for each in found for count in each.counts.tolist()] == [
        values.count(each) for each in sorted(set(values))
    ]
    assert [value for some in iterate_distinct(spill) for value in some.tolist()] == sorted(set(values))


@settings(max_examples=60, deadline=None)
@given(values=HASHES, most=st.integers(0, 4))
def test_copies_are_counted_and_the_first_found_with_their_originals(values, most):
    copies = [(row, values.index(each)) for row, each in enumerate(values) if values.index(each) < row]
    assert find_repeats(cut(values), most) == (len(copies), copies[:most])


@settings(max_examples=60, deadline=None)
@given(values=HASHES)
def test_the_set_of_a_splits_rows_is_hashed_as_if_it_were_sorted_at_once(values):
    expected = hashlib.sha256(b"".join(value.to_bytes(8, "big") for value in sorted(values))).hexdigest()
    assert hash_membership(hashes for hashes, _ in cut(values)) == (len(set(values)), expected)


@given(values=HASHES, known=HASHES)
def test_hashes_are_found_where_they_stand_among_those_that_are_known(values, known):
    ordered = sorted(set(known))
    found, at = find_places(np.array(values, np.uint64), np.array(ordered, np.uint64))
    expected = [(row, ordered.index(each)) for row, each in enumerate(values) if each in ordered]
    assert list(zip(found.tolist(), at.tolist(), strict=True)) == expected


def test_numbers_on_disk_are_those_that_were_written_and_leave_no_file(tmp_path, monkeypatch):
    monkeypatch.setattr(datasets.config, "HF_DATASETS_CACHE", tmp_path)
    mapped = map_numbers((np.arange(start, start + 3) for start in range(0, 12, 3)), np.int64)
    assert isinstance(mapped, np.memmap)
    assert mapped.tolist() == list(range(12))
    assert [(start, piece.tolist()) for start, piece in iterate_pieces(mapped)] == [
        (0, [0, 1, 2, 3, 4]),
        (5, [5, 6, 7, 8, 9]),
        (10, [10, 11]),
    ]
    assert map_numbers([], np.uint64).tolist() == []
    assert [path for path in tmp_path.rglob("*") if path.is_file()] == []


@pytest.mark.skipif(sys.platform == "win32", reason="pages are not given back there")
def test_pages_that_were_read_of_a_mapped_array_are_given_back(tmp_path, monkeypatch):
    monkeypatch.setattr(arrays_module, "PIECE", 2**16)
    million = np.arange(2**20)
    mapped = map_numbers([million] * 8, np.int64)  # 64 MiB
    before, most = psutil.Process().memory_info().rss, 0
    for _, piece in iterate_pieces(mapped):
        assert len(piece) == 2**16
        most = max(most, psutil.Process().memory_info().rss - before)
    assert most < mapped.nbytes / 4
    assert int(mapped.sum()) == 8 * int(million.sum())


# The same, with the files of a run


def write(name, rows):
    Path(name).write_text("".join(json.dumps(row) + "\n" for row in rows))
    return name


def make_rows(count, seed=0):
    rng = np.random.default_rng(seed)
    words = [" ".join(rng.choice(["a", "b", "c", "d"], 13)) for _ in range(count // 3)]
    texts = [f"{rng.choice(words)} {rng.integers(count // 2)}" for _ in range(count)]
    texts += [text.upper() for text in texts[: count // 4]]  # copies that are other rows
    return [{"prompt": str(row % 2), "completion": text} for row, text in enumerate(texts)]


def describe(splits):
    return {
        "summary": splits.summarize(),
        "rows": {name: rows[:] for name, rows in splits.rows.items()},
        "hashes": {name: splits.format_row_hashes(name) for name in splits.rows},
        "places": {name: [splits.locate(name, row) for row in range(len(rows))] for name, rows in splits.rows.items()},
    }


@pytest.mark.parametrize("weights", [False, True])
def test_a_run_that_keeps_its_rows_on_disk_has_the_rows_and_messages_of_one_that_holds_them(
    tmp_path, monkeypatch, caplog, weights
):
    monkeypatch.chdir(tmp_path)
    write("rows.jsonl", make_rows(200))
    write("more.jsonl", make_rows(100, 1))
    data = DataSection(
        train=[{"path": "rows.jsonl", "weight": 1.6 if weights else 1.0}, "more.jsonl"],
        validation_fraction=0.2,
        test_fraction=0.1,
    )

    def run(folder):
        monkeypatch.setattr(datasets.config, "HF_DATASETS_CACHE", tmp_path / folder)
        caplog.clear()
        with caplog.at_level(logging.INFO, "hf_finetune"):
            splits = load_splits(data, "conversation", 3)
        (tmp_path / f"run_{folder}").mkdir(exist_ok=True)
        key = next((tmp_path / "small").rglob("row_prints.key"), None)
        if key is not None:
            (tmp_path / folder / "hf_finetune" / key.name).write_bytes(key.read_bytes())
        keep_row_prints(tmp_path / f"run_{folder}", splits, resume=False)
        return describe(splits), caplog.messages, read_row_prints(tmp_path / f"run_{folder}").texts.tolist()

    found = run("small")
    assert run("small") == found  # as the cache has it
    monkeypatch.setattr(spill_module, "HELD_AT_ONCE", 2**18)
    monkeypatch.setattr(spill_module, "COMPARED_AT_ONCE", 2**16)
    monkeypatch.setattr(arrays_module, "PIECE", 2**16)
    assert run("large") == found
    assert any("are copies of training rows and are left out" in message for message in found[1])
    assert any(re.search(r"rows (is|are) there already", message) for message in found[1])


def test_the_choice_of_rows_is_made_once_for_its_settings(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    data = DataSection(train=write("rows.jsonl", make_rows(40)), validation_fraction=0.2)
    monkeypatch.setattr(datasets.config, "HF_DATASETS_CACHE", tmp_path / "cache")
    first = describe(load_splits(data, "conversation", 0))
    [kept] = (tmp_path / "cache").rglob("chosen-*.npz")
    with monkeypatch.context() as patch:
        patch.setattr(splits_module, "_choose_rows", lambda *_: pytest.fail("it is made again"))
        assert describe(load_splits(data, "conversation", 0)) == first
    kept.write_bytes(kept.read_bytes()[:-100])  # torn: it is made again
    assert describe(load_splits(data, "conversation", 0)) == first
    for other in ({"validation_fraction": 0.3}, {"test_fraction": 0.2}):
        load_splits(data.model_copy(update=other), "conversation", 0)
    load_splits(data, "conversation", 1)
    assert len(list((tmp_path / "cache").rglob("chosen-*.npz"))) == 4


FULL = """
import errno, os, tempfile, types
import datasets
import hf_finetune.data.splitting.spill as spill
from hf_finetune.errors import user_errors
from hf_finetune.config.sections import DataSection
from hf_finetune.data.splitting.splits import load_splits

class Full:
    def __init__(self, file):
        self.file = file
    def __getattr__(self, name):
        return getattr(self.file, name)
    def write(self, data):
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

spill.HELD_AT_ONCE = 4
spill.tempfile = types.SimpleNamespace(TemporaryFile=lambda **settings: Full(tempfile.TemporaryFile(**settings)))
with user_errors():
    load_splits(DataSection(train="rows.jsonl", validation_fraction=0.2), "conversation", 0)
"""


def test_a_choice_of_rows_that_cannot_be_kept_is_no_mistake_in_the_data(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(datasets.config, "HF_DATASETS_CACHE", tmp_path / "cache")

    def fail(*_):
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr("hf_finetune.data.splitting.chosen_rows.write_arrays", fail)
    with pytest.raises(
        CannotWriteError, match=r"the cache of the rows of each split cannot be written \(No space left on device\)"
    ):
        load_splits(DataSection(train=write("rows.jsonl", make_rows(20))), "conversation", 0)


def test_a_disk_that_is_full_while_rows_are_compared_ends_in_one_message_and_leaves_nothing(tmp_path):
    write(tmp_path / "rows.jsonl", make_rows(60))
    environment = {"HF_DATASETS_CACHE": str(tmp_path / "cache"), "PYTHONPATH": ":".join(filter(None, sys.path))}
    ended = subprocess.run(
        [sys.executable, "-c", FULL], cwd=tmp_path, env=environment, capture_output=True, text=True, check=False
    )
    assert ended.returncode == 5, ended.stderr
    assert "No space left on device" in ended.stderr
    assert "Traceback" not in ended.stderr
    left = {path.name.partition("-")[0] for path in (tmp_path / "cache" / "hf_finetune").iterdir()}
    assert left == {"rows", "row_prints.key"}
