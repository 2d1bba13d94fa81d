"""One rank fills an entry of the cache; what becomes of those that wait for it."""

from __future__ import annotations

import multiprocessing
import threading
import time
from pathlib import Path
from typing import Any

import pytest

from hf_finetune.cache import holding
from hf_finetune.cache.holding import hold_entry
from hf_finetune.errors import CannotWriteError, DataError, Problem
from hf_finetune.ranks import name_launch

PROBLEMS = [Problem("the row is no object", "write {...}", "rows.jsonl", line) for line in (3, 7)]


def fail(path: Path, held: Any, error: Exception) -> None:
    with hold_entry(path):
        held.set()
        time.sleep(0.2)
        raise error


@pytest.mark.parametrize(
    ("error", "launches", "passed_on"),
    [
        (DataError(PROBLEMS, total=9), ("a", "a"), True),
        (DataError(PROBLEMS, total=9), ("a", "b"), False),
        (DataError(PROBLEMS, total=9), (None, None), False),  # two commands, whose files have other names perhaps
        (CannotWriteError("no space"), ("a", "a"), False),
    ],
)
def test_what_one_rank_finds_at_fault_the_others_say_and_do_not_look_for_again(
    tmp_path, monkeypatch, error, launches, passed_on
):
    fork = multiprocessing.get_context("fork")
    held, path = fork.Event(), tmp_path / "rows-0.arrow"
    monkeypatch.setattr(holding, "name_launch", lambda: launches[0])
    other = fork.Process(target=fail, args=(path, held, error))
    other.start()
    held.wait(60)
    monkeypatch.setattr(holding, "name_launch", lambda: launches[1])
    looked, raised = False, None
    try:
        with hold_entry(path):
            looked = True
    except DataError as found:
        raised = found
    other.join(60)
    assert looked is not passed_on
    assert (str(raised), getattr(raised, "total", None)) == ((str(error), 9) if passed_on else ("None", None))
    assert list(tmp_path.iterdir()) == [], "no word of it stays"


def test_what_a_killed_process_had_begun_to_say_is_nobodys(tmp_path, monkeypatch):
    monkeypatch.setattr(holding, "name_launch", lambda: "a")
    lock = tmp_path / ".rows-0.lock"
    lock.write_text('{"launch": "a", "kind": "DataError", "problems": [{"what": "torn"}], "total": 1}')
    with hold_entry(tmp_path / "rows-0.arrow"):
        assert lock.read_text() == ""


def test_other_ranks_leave_it_to_the_first_one_to_begin_where_it_does(tmp_path, monkeypatch):
    path = tmp_path / "rows-0.arrow"
    monkeypatch.setenv("RANK", "1")
    first = threading.Timer(0.1, path.touch)
    first.start()
    with hold_entry(path):
        assert path.exists()
    monkeypatch.setattr(holding, "SECONDS_AFTER_THE_FIRST", 0.05)
    with hold_entry(tmp_path / "rows-1.arrow"):
        assert not (tmp_path / "rows-1.arrow").exists()


def test_the_processes_of_a_launch_have_one_name_and_one_on_its_own_none():
    assert name_launch({"RANK": "0"}) == name_launch({"SLURM_PROCID": "3"}) is not None
    assert name_launch({"RANK": ""}) is None
