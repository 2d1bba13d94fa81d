"""Files of the cache that several processes make at once."""

from __future__ import annotations

import logging
import multiprocessing
import threading
import time
from typing import Any

import pyarrow as pa
import pytest
from datasets import Dataset, Features, Value

from hf_finetune.cache import holding
from hf_finetune.cache.entries import remove_files
from hf_finetune.data import cache
from hf_finetune.data.cache import build_cached_dataset, place_dataset
from hf_finetune.data.splitting.batches import iterate_stored, map_table
from hf_finetune.errors import CannotWriteError, MachineError

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


def cut_behind_a_batch(arrow):
    """A stream of Arrow that ends behind any batch is whole for who reads it."""
    with arrow.open("rb") as file, pa.ipc.open_stream(file) as stored:
        stored.read_next_batch()
        size = file.tell()
    arrow.write_bytes(arrow.read_bytes()[:size])


DAMAGE = {
    "cut behind a batch": cut_behind_a_batch,
    "cut in a batch": lambda arrow: arrow.write_bytes(arrow.read_bytes()[:-70]),
    "empty": lambda arrow: arrow.write_bytes(b""),
    "grown": lambda arrow: arrow.write_bytes(arrow.read_bytes() + b"\0"),
    "counts torn": lambda arrow: arrow.with_suffix(".json").write_bytes(arrow.with_suffix(".json").read_bytes()[:9]),
    "counts of another kind": lambda arrow: arrow.with_suffix(".json").write_text("[]"),
}


@pytest.mark.parametrize("damage", DAMAGE.values(), ids=DAMAGE)
def test_what_is_not_of_the_size_that_was_written_is_made_again_and_that_is_said(tmp_path, monkeypatch, caplog, damage):
    monkeypatch.setattr("datasets.config.HF_DATASETS_CACHE", tmp_path)
    built = multiprocessing.Value("i", 0)
    build(1, built)
    damage(place_dataset("race", 1))
    rows, facts = build(1, built)
    assert (rows["number"][:], facts) == (list(range(ROWS)), {"rows": ROWS})
    assert built.value == 2
    assert caplog.text.count("is not as it was written: it is made again") == 1


@pytest.mark.parametrize("walk", [iterate_stored, lambda rows: map_table(rows)[0]], ids=["read", "mapped"])
@pytest.mark.parametrize("damage", ["cut behind a batch", "cut in a batch"])
def test_a_file_that_is_cut_while_it_is_read_ends_the_run(tmp_path, monkeypatch, walk, damage):
    monkeypatch.setattr("datasets.config.HF_DATASETS_CACHE", tmp_path)
    rows, _ = build(1, multiprocessing.Value("i", 0))
    assert sum(map(len, walk(rows))) == ROWS
    DAMAGE[damage](place_dataset("race", 1))
    with pytest.raises(MachineError, match=r"race-.*arrow: a file of the cache was cut or changed while the run read"):
        list(walk(rows))


def test_what_was_removed_is_read_on_by_the_run_that_has_mapped_it(tmp_path, monkeypatch):
    monkeypatch.setattr("datasets.config.HF_DATASETS_CACHE", tmp_path)
    rows, _ = build(1, multiprocessing.Value("i", 0))
    remove_files(place_dataset("race", 1))
    assert sum(map(len, iterate_stored(rows))) == sum(map(len, map_table(rows)[0])) == ROWS


def test_what_vanishes_as_soon_as_it_is_written_is_said(tmp_path, monkeypatch):
    monkeypatch.setattr("datasets.config.HF_DATASETS_CACHE", tmp_path)
    write = cache._write_dataset
    monkeypatch.setattr(cache, "_write_dataset", lambda arrow, *rest: (write(arrow, *rest), remove_files(arrow)))
    with pytest.raises(MachineError, match="was removed or changed as soon as it was written"):
        build(1, multiprocessing.Value("i", 0))


def test_what_a_killed_process_has_left_of_an_entry_goes_with_the_next_that_makes_it(tmp_path, monkeypatch):
    monkeypatch.setattr("datasets.config.HF_DATASETS_CACHE", tmp_path)
    arrow = place_dataset("race", 1)
    left, other = (arrow.with_name(f".{name}.1.aside") for name in (arrow.name, "rows-0.arrow"))
    for each in (left, other):
        each.write_bytes(b"half")
    build(1, multiprocessing.Value("i", 0))
    assert not left.exists()
    assert other.exists(), "another process may be at it"


def test_a_full_disk_of_the_cache_is_said_with_its_folder(tmp_path, monkeypatch):
    monkeypatch.setattr("datasets.config.HF_DATASETS_CACHE", tmp_path)

    def fail(*_):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(cache, "_write_dataset", fail)
    with pytest.raises(
        CannotWriteError,
        match=r"hf_finetune: the cache of rows and tokens cannot be written \(No space left .*make room there.*HF702",
    ):
        build(1, multiprocessing.Value("i", 0))
