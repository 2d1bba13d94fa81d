"""Files of the cache that several processes make at once."""

from __future__ import annotations

import logging
import multiprocessing
import threading
import time
from typing import Any

import pyarrow as pa
from datasets import Dataset, Features, Value

from hf_finetune.cache import holding
from hf_finetune.data.cache import build_cached_dataset, place_dataset

FEATURES = Features({"number": Value("int64")})
PROCESSES, STARTS, ROWS = 4, 50, 20


def build(start: int, built: Any) -> tuple[Dataset, dict[str, int]]:
    def batches() -> Any:
        with built.get_lock():
            built.value += 1
        for first in range(0, ROWS, 5):
            yield pa.record_batch({"number": list(range(first, first + 5))})
        return {"rows": ROWS}

    return build_cached_dataset("race", start, FEATURES, batches)


def race(barrier: Any, failed: Any, built: Any) -> None:
    for start in range(STARTS):
        barrier.wait(60)
        rows, facts = build(start, built)
        if rows["number"][:] != list(range(ROWS)) or facts != {"rows": ROWS}:
            failed.set()


def test_what_is_made_of_a_cached_data_set_is_found_again(tmp_path, monkeypatch):
    monkeypatch.setattr("datasets.config.HF_DATASETS_CACHE", tmp_path)
    built = multiprocessing.Value("i", 0)
    first, again = (build(1, built)[0] for _ in range(2))
    assert first._fingerprint == again._fingerprint
    assert first.select([3, 1])._fingerprint == again.select([3, 1])._fingerprint
    assert built.value == 1
    assert build(2, built)[0]._fingerprint != first._fingerprint


def test_processes_that_make_the_same_rows_at_once_all_have_them(tmp_path, monkeypatch):
    monkeypatch.setattr("datasets.config.HF_DATASETS_CACHE", tmp_path)
    fork = multiprocessing.get_context("fork")
    barrier, failed, built = fork.Barrier(PROCESSES), fork.Event(), fork.Value("i", 0)
    processes = [fork.Process(target=race, args=(barrier, failed, built)) for _ in range(PROCESSES)]
    for each in processes:
        each.start()
    for each in processes:
        each.join(60)
    assert [each.exitcode for each in processes] == [0] * PROCESSES
    assert not failed.is_set()
    assert built.value == STARTS  # the others have waited
    names = sorted(path.suffix for path in (tmp_path / "hf_finetune").iterdir())
    assert names == [".arrow"] * STARTS + [".json"] * STARTS


def test_who_waits_for_another_process_says_so_and_goes_on_when_that_one_is_killed(tmp_path, monkeypatch, caplog):
    monkeypatch.setattr("datasets.config.HF_DATASETS_CACHE", tmp_path)
    monkeypatch.setattr(holding, "SECONDS_UNSAID", 0.0)
    fork = multiprocessing.get_context("fork")
    begun = fork.Event()

    def stand_still() -> Any:
        begun.set()
        time.sleep(60)
        yield

    other = fork.Process(target=build_cached_dataset, args=("race", 0, FEATURES, stand_still))
    other.start()
    begun.wait(60)
    threading.Timer(0.3, other.kill).start()
    with caplog.at_level(logging.INFO):
        rows = build(0, fork.Value("i", 0))[0]
    assert len(rows) == ROWS
    assert "waiting for another process, which makes race-" in caplog.text


def test_a_data_set_whose_file_beside_it_was_removed_is_built_again(tmp_path, monkeypatch):
    monkeypatch.setattr("datasets.config.HF_DATASETS_CACHE", tmp_path)
    beside = place_dataset("part", 1).with_suffix(".prints.npz")

    def batches() -> Any:
        yield pa.record_batch({"number": [1]})
        beside.touch()
        return {}

    for _ in range(2):
        assert not beside.exists()
        for _ in range(2):
            build_cached_dataset("part", 1, FEATURES, batches, (".prints.npz",))
            assert beside.exists()
        beside.unlink()
