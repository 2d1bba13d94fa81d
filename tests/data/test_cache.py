"""Files of the cache that several processes make at once."""

from __future__ import annotations

import multiprocessing
from typing import Any

import pyarrow as pa
from datasets import Dataset, Features, Value

from hf_finetune.data.cache import build_cached_dataset

FEATURES = Features({"number": Value("int64")})
PROCESSES, STARTS, ROWS = 4, 50, 20


def build(start: int) -> Dataset:
    def batches() -> Any:
        for first in range(0, ROWS, 5):
            yield pa.record_batch({"number": list(range(first, first + 5))})
        return {"rows": ROWS}

    return build_cached_dataset("race", start, FEATURES, batches)


def race(barrier: Any, failed: Any) -> None:
    for start in range(STARTS):
        barrier.wait(60)
        rows, facts = build(start)
        if rows["number"][:] != list(range(ROWS)) or facts != {"rows": ROWS}:
            failed.set()


def test_processes_that_make_the_same_rows_at_once_all_have_them(tmp_path, monkeypatch):
    monkeypatch.setattr("datasets.config.HF_DATASETS_CACHE", tmp_path)
    fork = multiprocessing.get_context("fork")
    barrier, failed = fork.Barrier(PROCESSES), fork.Event()
    processes = [fork.Process(target=race, args=(barrier, failed)) for _ in range(PROCESSES)]
    for each in processes:
        each.start()
    for each in processes:
        each.join(60)
    assert [each.exitcode for each in processes] == [0] * PROCESSES
    assert not failed.is_set()
    names = sorted(path.suffix for path in (tmp_path / "hf_finetune").iterdir())
    assert names == [".arrow"] * STARTS + [".json"] * STARTS
