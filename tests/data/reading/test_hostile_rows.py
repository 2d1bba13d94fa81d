"""Rows and run files as an attacker writes them, a line each in tests/hostile: one message, in bounded time."""

from __future__ import annotations

import json
import os
from functools import partial
from pathlib import Path

import pytest
from bounded_runs import run_all_bounded

from hf_finetune.config import load_run
from hf_finetune.data import check_trained_rows

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
