"""Rows and run files as an attacker writes them, a line each in tests/hostile: one message, in bounded time."""

from __future__ import annotations

import gzip
import json
import os
from functools import partial
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import zstandard
from bounded_runs import run_all_bounded

from hf_finetune.config import load_run
from hf_finetune.data import RowsOptions, check_trained_rows, convert_rows
from hf_finetune.data.reading import lines
from hf_finetune.data.reading.json_line import MAX_KEYS
from hf_finetune.errors import DataError

HOSTILE = Path(__file__).resolve().parents[2] / "hostile"
ROWS = [json.loads(line) for line in (HOSTILE / "rows.jsonl").read_text().splitlines()]
RUN_FILES = [json.loads(line) for line in (HOSTILE / "run_files.jsonl").read_text().splitlines()]
RUN = "recipe: {recipe}\nmodel: {{path: base}}\ndata: {{train: {train}{more}}}\noutput_dir: out\n"
READERS = {"classification": ("", ", task: regression"), "continued_pretraining": ("",), "sft": ("",)}
BOUNDS = {"seconds": 10, "mebibytes": 1024}


@pytest.fixture
def folder(tmp_path, monkeypatch) -> Path:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "base").mkdir()
    (tmp_path / "rows.jsonl").write_text('{"text": "a", "label": "b"}\n')
    return tmp_path


def read(recipe: str, more: str, train: str = "rows.jsonl") -> None:
    Path("run.yaml").write_text(RUN.format(recipe=recipe, more=more, train=train))
    check_trained_rows(load_run(["run.yaml"], recipe))


def test_hostile_rows_are_refused_or_read_in_bounded_time(folder):
    works = []
    for case in ROWS:
        for recipe, more in ((recipe, more) for recipe, each in READERS.items() for more in each):

            def work(case=case, recipe=recipe, more=more) -> None:
                (folder / "rows.jsonl").write_text(case["row"] + "\n")
                read(recipe, more)

            works.append(work)
    ended = run_all_bounded(works, **BOUNDS)
    assert [each for each in ended if each.end not in ("done", "refused")] == []
    assert all(
        len(each.said.splitlines()) < 6 and max(map(len, each.said.splitlines()), default=0) < 2_000 for each in ended
    )


def read_run_file(text: str) -> None:
    Path("run.yaml").write_text(RUN.format(recipe="sft", more="", train="rows.jsonl") + text)
    load_run(["run.yaml"], "sft")


def test_hostile_run_files_are_one_message(folder):
    works = [partial(read_run_file, case["text"]) for case in RUN_FILES]
    for case, ended in zip(RUN_FILES, run_all_bounded(works, **BOUNDS), strict=True):
        ended.note()
        assert ended.end == ("done" if case["expected"] is None else "refused"), (case["name"], ended)
        assert (case["expected"] or "") in ended.said
        assert "\x1b" not in ended.said


def test_what_only_looks_like_a_file_of_rows_is_refused(folder):
    os.mkfifo("pipe")
    os.symlink("circle", "circle")
    places = ["/proc/kmsg", "/proc/self/mem", "/dev/zero", "pipe", "circle"]
    for number, place in enumerate(places):
        os.symlink(place, f"{number}.jsonl")
    named = [*places, *(f"{number}.jsonl" for number in range(len(places)))]
    for ended in run_all_bounded([partial(read, "sft", "", name) for name in named], **BOUNDS):
        ended.note()
        assert ended.end == "refused", ended
        assert "is not a file" in ended.said or "it is a link that leads to nothing" in ended.said


WIDE = {f"k{number}": "1" for number in range(MAX_KEYS + 1)}


def write_wide(path: Path) -> None:
    line = json.dumps(WIDE)
    if path.suffix == ".csv":
        path.write_text(f"{','.join(WIDE)}\n{','.join(WIDE.values())}\n")
    elif path.suffix == ".parquet":
        pq.write_table(pa.table({name: ["1"] for name in WIDE}), path)
    elif path.suffix == ".arrow":
        table = pa.table({name: ["1"] for name in WIDE})
        with pa.ipc.new_file(path, table.schema) as file:
            file.write_table(table)
    else:
        path.write_text(f"[{line}]" if path.suffix == ".json" else line)


@pytest.mark.parametrize("ending", ["jsonl", "json", "csv", "parquet", "arrow"])
def test_a_row_of_more_keys_than_are_looked_for_is_refused_in_every_layout(folder, ending):
    write_wide(folder / f"wide.{ending}")
    with pytest.raises(DataError, match=r"it has 10,001 (keys|columns), more than the limit of 10,000"):
        convert_rows(Path(f"wide.{ending}"), Path("out.jsonl"), RowsOptions())


def test_many_keys_below_the_limit_are_read_in_time_that_grows_with_them(folder):
    row = dict(list(WIDE.items())[: MAX_KEYS - 2], question="a", answer="b")
    Path("rows.jsonl").write_text(f"{json.dumps(row)}\n" * 20)
    Path("unlike.jsonl").write_text(json.dumps(dict(list(WIDE.items())[:MAX_KEYS])) + "\n")
    works = [partial(read, "sft", "", name) for name in ("rows.jsonl", "unlike.jsonl")]
    assert [each.end for each in run_all_bounded(works, **BOUNDS)] == ["done", "refused"]


@pytest.mark.parametrize("pack", [gzip.compress, zstandard.ZstdCompressor().compress], ids=["gzip", "zstd"])
@pytest.mark.parametrize(
    ("name", "begins"), [("bomb.jsonl", ""), ("bomb.csv", 'text,label\n"'), ("bomb.json", '[{"text": "')]
)
def test_a_file_that_unpacks_to_hundreds_of_times_its_size_is_refused(folder, monkeypatch, pack, name, begins):
    monkeypatch.setattr(lines, "UNPACKED_ANYWAY", 2**20)
    filled = begins.encode() + (b"a" if begins else b" ") * 2**23
    Path(f"{name}.gz").write_bytes(pack(filled))
    with pytest.raises(DataError, match="unpacks to more than 300 times its size"):
        convert_rows(Path(f"{name}.gz"), Path("out.jsonl"), RowsOptions())
