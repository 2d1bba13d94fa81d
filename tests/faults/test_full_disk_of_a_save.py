"""A disk that fails in the middle of a save leaves the checkpoints before as they were; a full one is made room on."""

from __future__ import annotations

import builtins
import errno
import multiprocessing
import os
import re
import resource
import shutil
import subprocess
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import torch

from hf_finetune.errors import CannotWriteError
from hf_finetune.folders.checkpoints import find_faults, find_verified, get_path
from hf_finetune.training.checkpoints import disk
from hf_finetune.training.checkpoints.disk import Snapshot
from hf_finetune.training.checkpoints.model_files import Weights
from hf_finetune.training.checkpoints.writer import CheckpointWriter

FORK = multiprocessing.get_context("fork")
FULL = (errno.ENOSPC, errno.EDQUOT)
REFUSED = (errno.EROFS, errno.EFBIG, errno.EPERM)
BROKEN = (errno.EIO, errno.EROFS, errno.EPERM)
VALUES = 20_000


def take(folder: Path, step: int, values: int = VALUES) -> Snapshot:
    weights = {"model.safetensors": Weights({"w": torch.full((values,), float(step))}, {"format": "pt"})}
    weights |= {"state.safetensors": Weights({"m": torch.full((values // 10,), float(step))}, None)}
    blobs: dict[str, Callable[[], bytes]] = {"state.json": lambda: b"{}\n" * 50, "config.json": lambda: b"{}\n"}
    return Snapshot(get_path(folder, step), {"step": step}, weights, blobs, frozenset({"state.json"}))


def contents(folder: Path) -> dict[str, bytes]:
    return {path.relative_to(folder).as_posix(): path.read_bytes() for path in folder.rglob("*") if path.is_file()}


@pytest.fixture
def saved(tmp_path) -> Path:
    """A run folder with the checkpoints of two steps."""
    folder = tmp_path / "run"
    folder.mkdir()
    for step in (1, 2):
        disk.write_checkpoint(take(folder, step), None)
    return folder


def save(folder: Path, *, beside: bool) -> None:
    """Save a third one, beside training or with it."""
    writer = CheckpointWriter(None)
    if not beside:
        writer.prepare = lambda snapshot: False  # type: ignore[method-assign]
    writer.save(take(folder, 3))
    writer.wait()


class Faults:
    """Lets changes of files fail: the one of number `at`, and every one after it where it lasts."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch, number: int, at: int, *, lasts: bool) -> None:
        self.count, self.number, self.at, self.lasts = 0, number, at, lasts
        for module, name in ((os, "replace"), (os, "fsync"), (os, "mkdir"), (disk, "save_file"), (builtins, "open")):
            monkeypatch.setattr(module, name, self._wrap(getattr(module, name), name))

    def _wrap(self, real: Any, name: str) -> Any:
        def call(*args: Any, **kwargs: Any) -> Any:
            writes = name != "open" or (len(args) > 1 and str(args[1])[0] in "xwa")
            if writes:
                self.count += 1
                if self.count - 1 == self.at or (self.lasts and self.count > self.at):
                    raise OSError(self.number, os.strerror(self.number))
            return real(*args, **kwargs)

        return call


@pytest.mark.parametrize("beside", [True, False], ids=["beside training", "with it"])
@pytest.mark.parametrize("number", [*FULL, *BROKEN], ids=errno.errorcode.get)
@pytest.mark.parametrize("lasts", [True, False], ids=["from then on", "once"])
def test_whichever_operation_fails_no_checkpoint_is_damaged(saved, tmp_path, request, number, lasts, beside):
    kept = tmp_path / "kept"
    shutil.copytree(saved, kept)
    before = contents(saved)
    with pytest.MonkeyPatch.context() as patch:
        counted = Faults(patch, number, 10**6, lasts=False)
        save(saved, beside=beside)
    assert counted.count >= 12
    step = 1 if request.config.getoption("--faults") else 5
    for at in range(0, counted.count, step):
        shutil.rmtree(saved)
        shutil.copytree(kept, saved)
        refused = None
        with pytest.MonkeyPatch.context() as patch:
            Faults(patch, number, at, lasts=lasts)
            try:
                save(saved, beside=beside)
            except CannotWriteError as problem:
                refused = problem
        after = contents(saved)
        freed = number in FULL and not (saved / "checkpoint-1").exists()
        for name, content in before.items():
            if not (freed and name.startswith("checkpoint-1/")):
                assert after[name] == content, f"{name}, operation {at}"
        if refused is None:
            assert find_faults(saved / "checkpoint-3") == [], f"operation {at}"
        else:
            assert refused.exit_code == 5
            more = "; room does not help" if number in REFUSED else r": it takes \d+ KiB, and"
            assert re.search(rf"cannot be written \({os.strerror(number)}\){more}", str(refused))
            assert "checkpoint-2 is kept, and the same command goes on from it" in str(refused)
            assert find_verified(saved)[0] == saved / "checkpoint-2"
            assert number in BROKEN or lasts
        assert [name for name in os.listdir(saved) if name.endswith(".aside")] == [], f"operation {at}"


def save_with_limit(folder: Path, limit: int) -> str:
    """What saving says where no file can grow over `limit` bytes."""
    receives, sends = FORK.Pipe(duplex=False)

    def work() -> None:
        resource.setrlimit(resource.RLIMIT_FSIZE, (limit, limit))
        try:
            save(folder, beside=True)
            sends.send("saved")
        except CannotWriteError as problem:
            sends.send(str(problem))
        os._exit(0)

    child = FORK.Process(target=work)
    child.start()
    assert receives.poll(30)
    said: str = receives.recv()
    child.join()
    return said


def test_at_whichever_size_files_end_the_last_checkpoint_is_as_it_was(saved, request):
    before = contents(saved)  # the older one, too: to remove it helps against a full disk alone
    outcomes = set()
    largest = (saved / "checkpoint-2" / "model.safetensors").stat().st_size
    for number in range(30 if request.config.getoption("--faults") else 4):
        limit = number * largest // (28 if request.config.getoption("--faults") else 2)
        said = save_with_limit(saved, limit)
        outcomes.add(said == "saved")
        words = "(File too large); room does not help, the system limits the size of files: raise it (ulimit -f); "
        assert said == "saved" or f"{words}checkpoint-2 is kept" in said, limit
        assert before.items() <= contents(saved).items(), limit
        assert (find_faults(saved / "checkpoint-3") == []) == (said == "saved"), limit
        shutil.rmtree(saved / "checkpoint-3", ignore_errors=True)
    assert outcomes == {True, False}


@pytest.fixture
def small_disk(tmp_path) -> Iterator[Path]:
    place = tmp_path / "disk"
    place.mkdir()
    made = subprocess.run(["mount", "-t", "tmpfs", "-o", "size=300k", "tmpfs", str(place)], capture_output=True)
    if made.returncode:
        pytest.skip("only root makes a small disk")
    try:
        yield place
    finally:
        subprocess.run(["umount", str(place)], check=True)


def test_on_a_disk_that_is_full_the_oldest_makes_room_and_then_nothing_does(small_disk):
    for step in (1, 2, 3):  # of 88 KB each
        disk.write_checkpoint(take(small_disk, step), None)
    disk.write_checkpoint(take(small_disk, 4), None)
    assert sorted(path.name for path in small_disk.iterdir()) == ["checkpoint-2", "checkpoint-3", "checkpoint-4"]
    before = contents(small_disk / "checkpoint-4")
    with pytest.raises(CannotWriteError, match=r"No space left on device.*checkpoint-4 is kept"):
        disk.write_checkpoint(take(small_disk, 5, 10 * VALUES), None)
    assert contents(small_disk / "checkpoint-4") == before


def test_a_save_that_is_read_back_with_another_value_is_none(saved, monkeypatch):
    """As where a disk that has failed takes what is written: lightning#21800."""
    before, load = contents(saved), disk.load_file

    def load_another(path: Path) -> dict[str, torch.Tensor]:
        found = load(path)
        next(iter(found.values())).view(-1)[-1] += 1
        return found

    monkeypatch.setattr(disk, "load_file", load_another)
    with pytest.raises(CannotWriteError, match=r"was read back with other values .*checkpoint-2 is kept"):
        save(saved, beside=True)
    assert contents(saved) == before


@pytest.mark.parametrize("as_file", [True, False], ids=["a file in its place", "gone"])
def test_a_run_folder_that_vanishes_is_said_and_not_made_anew(saved, as_file):
    shutil.rmtree(saved)
    if as_file:
        saved.touch()
    words = r"checkpoint-3 cannot be written: .*run is not there any more"
    with pytest.raises(CannotWriteError, match=words) as refused:
        save(saved, beside=True)
    assert refused.value.exit_code == 5
    assert saved.is_file() == as_file
    assert not saved.is_dir()
