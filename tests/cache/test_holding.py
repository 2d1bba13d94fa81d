"""One rank fills an entry of the cache; what becomes of those that wait for it."""

from __future__ import annotations

import hashlib
import multiprocessing
import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from hf_finetune.cache import holding
from hf_finetune.cache.holding import hold_entry
from hf_finetune.data import file_hashes
from hf_finetune.data.file_hashes import hash_data_file
from hf_finetune.errors import CannotWriteError, DataError, Problem
from hf_finetune.files import hash_file
from hf_finetune.ranks import name_launch
from hf_finetune.row_prints import draw_key

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
        (CannotWriteError(Problem("no space")), ("a", "a"), False),
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


def at_once(work: Callable[[], Any]) -> list[Any]:
    """What three processes return that do the same at once."""
    fork = multiprocessing.get_context("fork")
    barrier, returned = fork.Barrier(3), fork.SimpleQueue()

    def begin() -> None:
        barrier.wait(60)
        returned.put(work())

    processes = [fork.Process(target=begin) for _ in range(3)]
    for each in processes:
        each.start()
    found = [returned.get() for _ in processes]
    for each in processes:
        each.join(60)
    return found


def test_a_key_is_drawn_and_a_large_file_hashed_by_one_of_several_processes(tmp_path, monkeypatch):
    assert len(set(at_once(lambda: draw_key(tmp_path / "row_prints.key")))) == 1
    monkeypatch.setattr("datasets.config.HF_DATASETS_CACHE", tmp_path)
    monkeypatch.setattr(file_hashes, "LARGE", 1)
    rows = tmp_path / "rows.jsonl"
    rows.write_bytes(b"{}")
    monkeypatch.setattr(file_hashes, "CLOCK_TICK_S", -1.0)
    read = multiprocessing.get_context("fork").Value("i", 0)

    def count(path: Path) -> str:
        with read.get_lock():
            read.value += 1
        return hash_file(path)

    monkeypatch.setattr(file_hashes, "hash_file", count)
    assert set(at_once(lambda: hash_data_file(rows))) == {hashlib.sha256(b"{}").hexdigest()}
    assert read.value == 1
