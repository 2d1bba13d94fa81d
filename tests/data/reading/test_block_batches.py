"""Files that are read by several processes give the rows, counts and messages of one, whatever their lines are."""

from __future__ import annotations

import gzip
import json
import os
import sys
from contextlib import contextmanager
from pathlib import Path

import datasets
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from hf_finetune.cache.keys import place_in_cache
from hf_finetune.config.sections import DataSection
from hf_finetune.data import workers
from hf_finetune.data.reading import arrow, block_batches, lines
from hf_finetune.data.splitting.splits import load_splits
from hf_finetune.errors import DataError

pytestmark = pytest.mark.skipif(sys.platform != "linux", reason="rows are given to other processes on Linux")

GOOD = {"messages": [{"role": "user", "content": "a?"}, {"role": "assistant", "content": "b."}]}


def line(**more) -> str:
    return json.dumps(GOOD | more)


LINES = st.one_of(
    st.integers(0, 99).map(lambda number: line(n=number)),
    st.integers(0, 60).map(lambda number: line(**{f"key{number}": 1})),
    st.integers(0, 60).map(lambda number: line(**{f"key{number}": [1], "other": {}})),
    st.sampled_from(
        ["", "  \t", "{", "[]", '{"messages": []}', '{"a": 1, "a": 2}', '{"mesages": []}', "x" * 900, "\r"]
    ),
    st.sampled_from(["\r", "\x00", '{"messages": [{"role": "user", "content": "a"}]}', line() + "\r", line(weight=0)]),
)


@pytest.fixture(autouse=True)
def _small_blocks(monkeypatch):
    monkeypatch.setattr(block_batches, "FEWEST_BYTES", 600)
    monkeypatch.setattr(block_batches, "BYTES_AT_ONCE", 500)
    monkeypatch.setattr(lines, "CHUNK_BYTES", 300)
    monkeypatch.setattr(workers, "count_cores", lambda: 3)


def read(path, number, cache, becomes="conversation", **more):
    """All that reading a file gives: rows and counts, or the message; and what stands in the cache."""
    before, datasets.config.HF_DATASETS_CACHE = datasets.config.HF_DATASETS_CACHE, cache
    try:
        splits = load_splits(DataSection(train=str(path), num_proc=number, **more), becomes, seed=0)
        found = (splits.rows["train"].to_list(), splits.files, splits.unused_keys, splits.hashes["train"].tolist())
        found += (splits.unused_labels,)
    except DataError as refused:
        found = (str(refused), refused.problems, refused.total)
    kept = {each.name: each.read_bytes() for each in place_in_cache(".").glob("rows-*")}
    datasets.config.HF_DATASETS_CACHE = before
    return found, kept


@pytest.mark.parametrize("on_bad_line", ["fail", "skip"])
@settings(max_examples=6, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(written=st.lists(LINES, min_size=12, max_size=60), ended=st.booleans())
def test_rows_counts_and_messages_are_those_of_one_process(tmp_path, on_bad_line, written, ended):
    path = tmp_path / "rows.jsonl"
    path.write_bytes("\n".join([line(), *written]).encode() + b"\n" * ended)
    folder = tmp_path / os.urandom(8).hex()
    more = {"on_bad_line": on_bad_line, "max_line_bytes": 800}
    assert read(path, 1, folder / "1", **more) == read(path, 3, folder / "3", **more)


SEVERAL = {"a": "A", "b": "B", "c": "A", "1": "B", "2": "A", "unseen": "C"}
KINDS = {
    "text": ("a", {}),
    "number": (1, {}),
    "several": (["a"], {}),
    "renamed": ("a", {"labels": SEVERAL}),
    "renamed numbers": (1, {"labels": SEVERAL}),
    "several renamed": (["a"], {"labels": SEVERAL, "allow_empty": True}),
    "regression": (0.5, {"task": "regression"}),
}
LABELS = st.sampled_from(
    ["a", "b", "A", "c", "d", " ", 1, 2, 3, 0.5, True, None, [], ["a"], ["b", "c"], ["a", "a"], [1, "a"]]
)


@settings(max_examples=6, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(
    kind=st.sampled_from([*KINDS]),
    labels=st.lists(st.one_of(LABELS, st.just(KINDS)), min_size=12, max_size=50),
    before=st.lists(st.just([]), max_size=20),
    on_bad_line=st.sampled_from(["fail", "skip", "skip"]),
)
def test_rows_with_labels_are_read_as_by_one_process(tmp_path, monkeypatch, kind, labels, before, on_bad_line):
    usual, more = KINDS[kind]
    monkeypatch.chdir(tmp_path)
    path = Path("rows.jsonl")
    given_labels = [usual if label is KINDS else label for label in [*before, KINDS, *labels]]
    written = (json.dumps({"text": f"text {number}", "label": label}) for number, label in enumerate(given_labels))
    path.write_text("\n".join(written))
    folder = tmp_path / os.urandom(8).hex()
    more = {"on_bad_line": on_bad_line, **more}
    one, several = (read(path, number, folder / str(number), "labelled", **more) for number in (1, 3))
    assert one == several


@pytest.mark.parametrize(("kind", "becomes"), [(None, "conversation"), ("text", "labelled"), ("renamed", "labelled")])
def test_other_processes_do_read(tmp_path, monkeypatch, kind, becomes):
    asked = []
    monkeypatch.setattr(block_batches.WorkerPool, "do", lambda self, item: asked.append(item) or self._do_here(item))
    path = tmp_path / "rows.jsonl"
    rows = {"conversation": line(), "labelled": json.dumps({"text": "a" * 40, "label": "a"})}
    path.write_text(f"{rows[becomes]}\n" * 40)
    read(path, 2, tmp_path / "cache", becomes, **KINDS.get(kind, (None, {}))[1])
    assert len(asked) > 5


def test_a_table_is_read_so_too_by_the_lines_of_its_file(tmp_path):
    path = tmp_path / "rows.csv"
    rows = [f'"{number}\n?",{"" if number == 31 else number}' for number in range(60)]
    path.write_text("\n".join(["question,answer", *rows]))
    one, several = (read(path, number, tmp_path / str(number)) for number in (1, 3))
    assert one == several
    assert [problem.line for problem in one[0][1]] == [64]


def test_more_keys_than_are_noted_are_the_first_ones_of_the_file(tmp_path):
    path = tmp_path / "rows.jsonl"
    path.write_text("".join(line(**{f"key{number}": [1]}) + "\n" for number in range(120)))
    one, several = (read(path, number, tmp_path / str(number)) for number in (1, 3))
    assert one == several
    assert len(one[0][2]) == 50


def test_a_row_without_the_field_of_its_group_is_named(tmp_path):
    path = tmp_path / "rows.jsonl"
    path.write_text("".join(line(**({"g": 1} if number != 33 else {})) + "\n" for number in range(60)))
    more = {"group_by": "g", "validation_fraction": 0.5}
    one, several = (read(path, number, tmp_path / str(number), **more) for number in (1, 3))
    assert one == several
    assert one[0][1][0].line == 34


@pytest.mark.parametrize("number", [1, 3])
def test_how_far_a_file_of_lines_is_read_is_told_by_its_bytes(tmp_path, monkeypatch, number):
    shares = []

    @contextmanager
    def note(what, total=None):
        yield lambda done, share=None: shares.append(share)

    monkeypatch.setattr(arrow, "show_progress", note)
    monkeypatch.setattr(arrow, "BATCH_BYTES", 1_000)
    rows = "".join(line(n=n, pad="x" * n) + "\n" for n in range(60)) + "\n{\n" + "x" * 900 + "\n"
    (tmp_path / "rows.jsonl").write_text(rows)
    more = {"on_bad_line": "skip", "max_line_bytes": 800}
    read(tmp_path / "rows.jsonl", number, tmp_path / "cache", **more)
    assert shares == sorted(shares)
    assert 0 < shares[0] < 0.5
    assert shares[-1] > 0.9
    shares.clear()
    (tmp_path / "rows.jsonl.gz").write_bytes(gzip.compress(rows.encode()))
    read(tmp_path / "rows.jsonl.gz", number, tmp_path / "packed", **more)
    (tmp_path / "rows.csv").write_text("question,answer\n" + "a,b\n" * 60)
    read(tmp_path / "rows.csv", number, tmp_path / "table")
    assert set(shares) == {None}
