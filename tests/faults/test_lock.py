"""One run per folder: one winner of every race, and nothing that a loser has written."""

from __future__ import annotations

import errno
import json
import multiprocessing
import os
import random
import signal
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from hf_finetune.errors import CannotWriteError, ConfigError, FolderInUse, Problem
from hf_finetune.folders import lock as run_lock
from hf_finetune.folders.lock import check_not_in_use, held_run_folder, hold_run_folder, release_run_folders
from hf_finetune.reporting import record_scores

ROOT = Path(__file__).resolve().parent.parent.parent
FORK = multiprocessing.get_context("fork")
RACES, FEW = 100, 5
HELD_S = 0.15


@pytest.fixture(scope="module", autouse=True)
def warmed() -> None:
    """What the first message of a process takes, children have already."""
    str(FolderInUse(Problem("warm")))


@pytest.fixture(autouse=True)
def nothing_is_held_afterwards() -> Iterator[None]:
    yield
    release_run_folders()


def in_child(work: Callable[[], Any]) -> Any:
    """What `work` returns in a forked process, which then ends as a killed one does: nothing is cleaned up."""
    receives, sends = FORK.Pipe(duplex=False)

    def run() -> None:
        try:
            sends.send(work())
        except BaseException as problem:
            sends.send(problem)
        os._exit(0)

    child = FORK.Process(target=run)
    child.start()
    found = receives.recv()
    child.join()
    return found


def hold(folder: Path) -> bool:
    return hold_run_folder(str(folder))


def race(folder: Path, skews: list[float], *, killed: bool) -> list[tuple[str, float]]:
    """What each of the processes that start together got, and how long it took."""
    results = FORK.SimpleQueue()
    start = FORK.Barrier(len(skews))

    def contend(skew: float) -> None:
        start.wait()
        time.sleep(skew)
        began = time.perf_counter()
        try:
            assert hold(folder)
        except FolderInUse as problem:
            results.put((f"exit {problem.exit_code}", time.perf_counter() - began))
            os._exit(problem.exit_code)
        (folder / "manifest.json").write_text(json.dumps({"data": {}, "versions": {}, "launch": os.getpid()}))
        results.put(("won", time.perf_counter() - began))
        time.sleep(HELD_S)
        if killed:
            os.kill(os.getpid(), signal.SIGKILL)
        release_run_folders()
        os._exit(0)

    children = [FORK.Process(target=contend, args=(skew,)) for skew in skews]
    for child in children:
        child.start()
    found = [results.get() for _ in children]
    for child in children:
        child.join()
    return found


def test_of_processes_that_race_for_a_folder_one_wins_and_the_others_leave_no_trace(tmp_path, request):
    whole = request.config.getoption("--faults")
    for seed in range(RACES if whole else FEW):
        draw = random.Random(seed)
        folder = tmp_path / f"run-{seed}"
        stale, killed = draw.random() < 0.5, draw.random() < 0.5
        if stale:
            in_child(lambda at=folder: hold(at))
            assert (folder / ".lock").is_file()
        skews = [draw.uniform(0, 0.05) for _ in range(draw.randint(2, 8))]
        found = race(folder, skews, killed=killed)
        outcomes = sorted(outcome for outcome, _ in found)
        assert outcomes == ["exit 3"] * (len(skews) - 1) + ["won"], f"seed {seed}"
        assert max(seconds for _, seconds in found) < 1, f"seed {seed}"
        left = {"manifest.json"} | ({".lock"} if killed else set())
        assert {path.name for path in folder.iterdir()} == left, f"seed {seed}"
        assert in_child(lambda at=folder: hold(at)) is True


@pytest.mark.parametrize("flock", [True, False])
def test_a_second_process_is_refused_by_name_until_the_first_lets_go_or_dies(tmp_path, monkeypatch, flock):
    if not flock:
        monkeypatch.setattr(run_lock, "fcntl", None)  # Windows
    folder = tmp_path / "run"
    assert hold(folder)
    assert hold(folder)  # once more by the same process
    refused = in_child(lambda: hold(folder))
    assert isinstance(refused, FolderInUse)
    assert refused.exit_code == 3
    words = rf"is in use by process {os.getpid()} on {socket.gethostname()} since 2\d\d\d-"
    with pytest.raises(FolderInUse, match=words):
        raise refused
    release_run_folders()
    assert not folder.exists()  # it was made for a run that left nothing in it
    assert in_child(lambda: hold(folder)) is True
    assert (folder / ".lock").is_file()  # its owner is dead
    assert hold(folder)


def test_without_flock_one_wins_too(tmp_path, monkeypatch):
    monkeypatch.setattr(run_lock, "fcntl", None)
    for seed in range(3):
        folder = tmp_path / f"run-{seed}"
        in_child(lambda at=folder: hold(at))  # a stale one
        found = race(folder, [0.0] * 6, killed=True)
        assert sorted(outcome for outcome, _ in found) == ["exit 3"] * 5 + ["won"]


def put_record(folder: Path, **changes: Any) -> None:
    hold(folder)
    record = json.loads((folder / ".lock").read_text())
    release_run_folders()
    folder.mkdir(exist_ok=True)
    (folder / ".lock").write_text(json.dumps(record | changes))


def test_the_number_of_a_dead_owner_may_be_another_process_by_now(tmp_path, monkeypatch):
    monkeypatch.setattr(run_lock, "fcntl", None)
    put_record(tmp_path / "run", pid=os.getppid(), born=1.0)
    assert hold(tmp_path / "run")


@pytest.mark.parametrize("flock", [True, False])
def test_an_owner_on_another_host_is_alive_as_long_as_its_heart_beats(tmp_path, monkeypatch, flock):
    folder = tmp_path / "run"
    monkeypatch.setattr(run_lock, "_is_shared", lambda folder: True)
    if not flock:
        monkeypatch.setattr(run_lock, "fcntl", None)
    put_record(folder, host="elsewhere")
    with pytest.raises(FolderInUse, match=r"on elsewhere since .* wait until that has ended, or (60|59) seconds where"):
        hold(folder)
    assert [path.name for path in folder.iterdir()] == [".lock"]
    long_ago = time.time() - run_lock.DEAD_AFTER_S - 1
    os.utime(folder / ".lock", (long_ago, long_ago))
    assert hold(folder)


@pytest.mark.parametrize("skew", [3600.0, -3600.0])
def test_a_clock_that_is_an_hour_off_takes_the_lock_from_nobody(tmp_path, monkeypatch, skew):
    folder = tmp_path / "run"
    monkeypatch.setattr(run_lock, "_is_shared", lambda folder: True)
    put_record(folder, host="elsewhere")
    held = folder / ".lock.aside"  # by a process of another host, which looks at the record
    now = time.time
    monkeypatch.setattr(time, "time", lambda: now() + skew)
    held.touch()
    began = threading.Timer(0.3, held.unlink)
    began.start()
    with pytest.raises(FolderInUse, match="on elsewhere"):
        hold(folder)
    began.join()
    assert not began.is_alive()
    assert [path.name for path in folder.iterdir()] == [".lock"]
    # One that a killed process has left is taken away at once, whatever the clock of this host says.
    held.touch()
    os.utime(held, (now() - run_lock.DEAD_AFTER_S - 1,) * 2)
    with pytest.raises(FolderInUse, match="on elsewhere"):
        hold(folder)


def test_on_a_disk_of_this_host_a_record_of_another_host_is_of_a_container_that_has_ended(tmp_path):
    put_record(tmp_path / "run", host="elsewhere")
    assert hold(tmp_path / "run")


def test_a_heart_beats_where_others_may_look(tmp_path, monkeypatch):
    monkeypatch.setattr(run_lock, "_is_shared", lambda folder: True)
    monkeypatch.setattr(run_lock, "HEARTBEAT_S", 0.01)
    hold(tmp_path / "run")
    lock = tmp_path / "run" / ".lock"
    os.utime(lock, (1, 1))
    until = time.monotonic() + 10
    while lock.stat().st_mtime == 1 and time.monotonic() < until:
        time.sleep(0.01)
    assert lock.stat().st_mtime > 1


def test_a_forked_worker_does_not_hold_the_lock_of_a_run_that_was_killed(tmp_path):
    folder = tmp_path / "run"
    ready, gate = FORK.Pipe(), FORK.Event()

    def run() -> None:
        hold(folder)
        FORK.Process(target=gate.wait, args=(20,), daemon=False).start()  # it outlives its parent
        ready[1].send(True)
        os.kill(os.getpid(), signal.SIGKILL)

    child = FORK.Process(target=run)
    child.start()
    ready[0].recv()
    child.join()
    assert hold(folder)
    gate.set()


def test_a_folder_of_others_is_left_alone(tmp_path):
    (tmp_path / "thesis.docx").touch()
    assert not hold(tmp_path)
    assert [path.name for path in tmp_path.iterdir()] == ["thesis.docx"]


def test_a_folder_that_cannot_be_written_is_one_message(tmp_path):
    (tmp_path / ".lock").mkdir()
    with pytest.raises(ConfigError, match=r"output_dir: .* cannot be written \(Is a directory\)"):
        hold(tmp_path)


def test_a_full_disk_is_no_setting_to_change(tmp_path, monkeypatch):
    def full(*_, **__):
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    monkeypatch.setattr(run_lock, "_take", full)
    with pytest.raises(CannotWriteError, match=r"cannot be written \(No space left on device\); make room"):
        hold(tmp_path / "run")
    assert not (tmp_path / "run").exists()


def test_only_the_first_of_several_ranks_holds_it(tmp_path, monkeypatch):
    monkeypatch.setenv("RANK", "1")
    assert not hold(tmp_path / "run")
    assert not (tmp_path / "run").exists()


def test_scores_are_recorded_in_no_folder_that_is_in_use(tmp_path, monkeypatch):
    def record() -> None:
        with held_run_folder(str(tmp_path), patience_s=0.2):
            pass

    hold(tmp_path)
    assert isinstance(in_child(record), FolderInUse)
    assert isinstance(in_child(lambda: check_not_in_use(str(tmp_path))), FolderInUse)
    assert isinstance(in_child(lambda: record_scores(str(tmp_path), "more", {})), FolderInUse)
    release_run_folders()
    assert in_child(record) is None
    assert not (tmp_path / ".lock").exists()


def test_the_launcher_refuses_before_it_imports_torch(tmp_path, environment_of_a_user):
    hold(tmp_path / "run")
    words = ["train", "recipes/configs/char_model.yaml", f"output_dir={tmp_path}/run"]
    for where in ("cpu", "cpu_2proc"):
        code = "import sys; from hf_finetune.cli import main\ntry: main()\nfinally: print('torch' in sys.modules)"
        done = subprocess.run(
            [sys.executable, "-c", code, *words, "--on", where],
            cwd=ROOT, env=environment_of_a_user, capture_output=True, text=True, check=False,
        )  # fmt: skip
        assert done.returncode == 3, done.stderr
        assert done.stdout.strip() == "False"
        assert done.stderr.splitlines()[-1].startswith(f"{tmp_path}/run: is in use by process {os.getpid()} on ")
    assert [path.name for path in (tmp_path / "run").iterdir()] == [".lock"]


def test_a_lock_file_that_its_owner_removes_as_another_opens_it_is_nobodys(tmp_path, monkeypatch):
    real, calls = run_lock.fcntl.flock, []

    def flock(descriptor: int, operation: int) -> None:
        if not calls:
            (tmp_path / "run" / ".lock").unlink()  # the owner has ended between `open` and `flock`
        calls.append(operation)
        real(descriptor, operation)

    monkeypatch.setattr(run_lock.fcntl, "flock", flock)
    assert hold(tmp_path / "run")
    assert len(calls) == 2
    monkeypatch.undo()
    assert isinstance(in_child(lambda: hold(tmp_path / "run")), FolderInUse)


def test_of_two_commands_for_one_folder_one_trains_and_the_other_says_who_does(
    tmp_path, environment_of_a_user, request
):
    if not request.config.getoption("--faults"):
        pytest.skip("with --faults")
    small = ("model.scratch.hidden_size=32", "model.scratch.num_hidden_layers=1", "model.scratch.num_attention_heads=2")
    few = ("train.max_steps=2", "train.eval_strategy=no", "train.load_best_model_at_end=false", "eval.max_new_tokens=1")
    words = ["recipes/configs/char_model.yaml", f"output_dir={tmp_path}/run", *small, *few]
    command = [sys.executable, "-m", "hf_finetune.cli", "train", *words, "--on", "cpu"]
    runs = [
        subprocess.Popen(command, cwd=ROOT, env=environment_of_a_user, stderr=subprocess.PIPE, text=True)
        for _ in range(2)
    ]
    said = [run.communicate()[1] for run in runs]
    codes = [run.returncode for run in runs]
    assert sorted(codes) == [0, 3], said
    winner = runs[codes.index(0)]
    assert f"{tmp_path}/run: is in use by process {winner.pid} on " in said[codes.index(3)].splitlines()[-1]
    assert (tmp_path / "run" / "report.json").is_file()
    assert not (tmp_path / "run" / ".lock").exists()
