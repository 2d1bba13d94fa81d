"""How many threads torch computes with, by the machine and never by how busy it is, and how they wait."""

from __future__ import annotations

import json
import os
import subprocess
import sys

import pytest
import torch

from hf_finetune.environment.threads import (
    COUNT,
    OURS,
    SHORT,
    _read_quotas,
    count_cores,
    describe_threads,
    has_idle_cores,
    keep_threads,
)

NAMES = (COUNT, OURS, "OMP_WAIT_POLICY", "GOMP_SPINCOUNT", "KMP_BLOCKTIME", "LOCAL_WORLD_SIZE")
SET = f"import hf_finetune, json, os; print(json.dumps({{name: os.environ.get(name) for name in {NAMES!r}}}))"


def environment_after_import(given: dict[str, str], code: str = SET) -> dict[str, str | None]:
    plain = {name: value for name, value in os.environ.items() if name not in NAMES}
    done = subprocess.run([sys.executable, "-c", code], env=plain | given, capture_output=True, text=True, check=True)
    return json.loads(done.stdout)


def test_all_cores_compute_and_wait_asleep():
    found = environment_after_import({})
    assert found[COUNT] == found[OURS] == str(count_cores())
    assert found["OMP_WAIT_POLICY"] == "PASSIVE"
    assert found["GOMP_SPINCOUNT"] in (None, SHORT)
    assert environment_after_import({COUNT: "1"})["GOMP_SPINCOUNT"] is None


@pytest.mark.parametrize(
    ("load", "threads", "spin"),
    [
        ("0.20 0.18 0.12 1/80 11206", 2, True),
        ("0.20 0.18 0.12 2/80 11206", 2, False),
        ("0.20 0.18 0.12 1/80 11206", 1, False),
        ("0.20 0.18 0.12 1/80 11206", 3, False),
        ("", 2, False),
    ],
)
def test_threads_spin_a_moment_where_each_has_a_core(tmp_path, monkeypatch, load, threads, spin):
    monkeypatch.setattr(os, "cpu_count", lambda: 2)
    (tmp_path / "loadavg").write_text(load)
    assert has_idle_cores(threads, tmp_path / "loadavg") is spin


@pytest.mark.skipif(sys.platform != "linux", reason="/proc")
def test_a_process_that_computes_is_seen(monkeypatch):
    monkeypatch.setattr(os, "cpu_count", lambda: 2)
    with subprocess.Popen(
        [sys.executable, "-c", "print(flush=True)\nwhile True: pass"], stdout=subprocess.PIPE
    ) as busy:
        try:
            assert busy.stdout is not None
            busy.stdout.readline()
            assert not has_idle_cores(2)
        finally:
            busy.kill()


@pytest.mark.parametrize("name", ["GOMP_SPINCOUNT", "KMP_BLOCKTIME", "OMP_WAIT_POLICY"])
def test_what_the_user_says_of_waiting_holds(name):
    found = environment_after_import({name: "ACTIVE"})
    assert [found[each] for each in ("OMP_WAIT_POLICY", name)] == ["ACTIVE" if "POLICY" in name else None, "ACTIVE"]


def test_the_users_number_of_threads_holds_and_processes_share_the_cores():
    found = environment_after_import({COUNT: "7"})
    assert (found[COUNT], found[OURS]) == ("7", None)
    cores = count_cores()
    assert environment_after_import({"LOCAL_WORLD_SIZE": "2"})[COUNT] == str(max(1, cores // 2))
    assert environment_after_import({"LOCAL_WORLD_SIZE": "999"})[COUNT] == "1"


def test_no_more_cores_are_taken_than_the_affinity_allows():
    pinned = "import os; os.sched_setaffinity(0, {min(os.sched_getaffinity(0))}); "
    assert environment_after_import({}, pinned + SET)[COUNT] == "1"


def test_torch_has_read_it_and_is_not_spoken_to_when_it_is_too_late():
    code = "import hf_finetune, torch, json; print(json.dumps({'n': torch.get_num_threads()}))"
    assert environment_after_import({}, code)["n"] == count_cores()
    assert environment_after_import({}, f"import torch; {SET}")["OMP_WAIT_POLICY"] is None


@pytest.mark.parametrize(
    ("files", "cores"),
    [
        ({"cpu.max": "150000 100000"}, [1.5]),
        ({"cpu.max": "max 100000"}, []),
        ({"a/b/cpu.max": "400000 100000", "a/cpu.max": "200000 100000", "cpu.max": "max 100000"}, [4.0, 2.0]),
        ({"cpu/cpu.cfs_quota_us": "300000", "cpu/cpu.cfs_period_us": "100000"}, [3.0]),
        ({"cpu/cpu.cfs_quota_us": "-1", "cpu/cpu.cfs_period_us": "100000"}, []),
        ({}, []),
    ],
)
def test_the_quota_of_a_container_is_read(tmp_path, files, cores):
    for name, content in files.items():
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).write_text(f"{content}\n")
    (tmp_path / "own").write_text("5:cpu:/x\n0::/a/b\n")
    assert list(_read_quotas(tmp_path, tmp_path / "own")) == cores


def test_accelerates_number_of_threads_is_not_the_users(tmp_path):
    (tmp_path / "accelerate").write_text(
        "import os, subprocess, sys\n"
        "os.environ |= {'OMP_NUM_THREADS': '64', 'ACCELERATE_MIXED_PRECISION': 'no'}\n"
        "subprocess.run([sys.executable, sys.argv[-1]])"
    )
    (tmp_path / "child.py").write_text(SET)
    plain = {name: value for name, value in os.environ.items() if name not in NAMES}
    for given, options, found in (
        ({}, [], count_cores()),
        ({COUNT: "3"}, [], 64),
        ({}, ["--num_cpu_threads_per_process=64"], 64),
    ):
        launch = [sys.executable, str(tmp_path / "accelerate"), "launch", *options, str(tmp_path / "child.py")]
        done = subprocess.run(launch, env=plain | given, capture_output=True, text=True, check=True)
        assert json.loads(done.stdout)[COUNT] == str(found)


def test_it_is_said_in_one_line(monkeypatch):
    for name in NAMES:
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv(COUNT, "2")
    monkeypatch.setenv("OMP_WAIT_POLICY", "PASSIVE")
    assert describe_threads() == "2 threads, waiting asleep (OMP_WAIT_POLICY=PASSIVE)"
    monkeypatch.setenv("GOMP_SPINCOUNT", SHORT)
    both = f"OMP_WAIT_POLICY=PASSIVE, GOMP_SPINCOUNT={SHORT}"
    assert describe_threads() == f"2 threads, waiting a moment awake, then asleep ({both})"
    monkeypatch.setenv(COUNT, "1")
    monkeypatch.delenv("OMP_WAIT_POLICY")
    monkeypatch.setenv("GOMP_SPINCOUNT", "0")
    assert describe_threads() == "1 thread, waiting as you have set it (GOMP_SPINCOUNT=0)"


def test_a_resumed_run_computes_with_the_threads_that_it_began_with(monkeypatch, caplog):
    now = torch.get_num_threads()
    monkeypatch.setenv(COUNT, str(now))
    monkeypatch.delenv(OURS, raising=False)
    try:
        assert keep_threads(now) == keep_threads(None) == now
        assert caplog.text == ""
        assert keep_threads(now + 1) == torch.get_num_threads() == now  # the user's own OMP_NUM_THREADS
        assert f"{now} threads, as OMP_NUM_THREADS says; the run began with {now + 1}" in caplog.text
        monkeypatch.setenv(OURS, str(now))
        assert keep_threads(now + 1) == torch.get_num_threads() == now + 1
    finally:
        torch.set_num_threads(now)
