"""What a process says that another one has left alone, and how it notices a machine that is gone."""

from __future__ import annotations

import os
import signal
import socket
import subprocess
import sys
import time
from dataclasses import replace

import pytest

from hf_finetune import errors, interruption, ranks
from hf_finetune.errors import LeftAlone, MachineError, user_errors

CLOSED = "[/pytorch/third_party/gloo/gloo/transport/tcp/pair.cc:547] Connection closed by peer [10.77.0.2]:19864"
UNREACHABLE = (
    "[/pytorch/third_party/gloo/gloo/transport/tcp/pair.cc:540] Read error [10.77.0.2]:19864: Connection timed out"
)
SILENT = (
    "[/pytorch/third_party/gloo/gloo/transport/tcp/unbound_buffer.cc:81] Timed out waiting 8000ms for recv operation"
)


class DistBackendError(RuntimeError):
    """As torch names NCCL's."""


@pytest.fixture
def other():
    """Another process of this run, on this machine, and what knows it."""
    process = subprocess.Popen(["sleep", "600"])
    this = ranks.describe_self(0)
    ranks.remember_processes([this, replace(this, rank=1, pid=process.pid)])
    yield process
    ranks.remember_processes([])
    process.kill()
    process.wait()


@pytest.fixture(autouse=True)
def soon(monkeypatch):
    monkeypatch.setattr(ranks, "_SECONDS_TO_BE_GONE", 0.2)


def describe(said: str) -> str:
    lost = ranks.describe_lost(RuntimeError(said))
    assert lost is not None
    return lost.what


def test_the_process_that_is_gone_is_named(other):
    assert ranks.find_gone() == []
    assert describe(CLOSED) == "another process of this run has ended, and this one with it"
    other.kill()  # nobody has waited for it: it is there still, and does nothing any more
    assert describe(CLOSED) == "process 1 of 2 has ended, and this one with it"
    other.wait()
    assert ranks.find_gone() == [1]
    assert ranks.describe_lost(DistBackendError("NCCL error")).here


def test_a_process_that_stands_still_is_named(other):
    assert describe(SILENT) == "another process of this run has not answered for 8 s (train.ddp_timeout)"
    other.send_signal(signal.SIGSTOP)
    os.waitpid(other.pid, os.WUNTRACED)
    said = "process 1 of 2, which a signal has stopped, has not answered for 8 s (train.ddp_timeout)"
    assert describe(SILENT) == said


def test_a_machine_that_is_gone_is_named_by_its_address():
    said = "the machine at 10.77.0.2 cannot be reached (Connection timed out): it is gone, or the network to it"
    assert describe(UNREACHABLE) == said
    this = ranks.describe_self(0)
    ranks.remember_processes([this, ranks.Process(1, "another", 1)])
    assert describe(CLOSED) == "a process on the machine at 10.77.0.2 has ended, and this one with it"
    ranks.remember_processes([])


@pytest.mark.parametrize("said", ["list index out of range", "port 29500: EADDRINUSE, gloo/transport"])
def test_what_no_other_process_has_to_do_with_is_left_as_it_is(said):
    assert ranks.describe_lost(RuntimeError(said)) is None


def test_a_signal_of_the_launcher_hides_no_cause(other, monkeypatch, capsys):
    monkeypatch.setattr(interruption._state, "number", signal.SIGTERM)
    monkeypatch.setattr(interruption._state, "came", float("inf"))
    other.kill()
    with pytest.raises(SystemExit) as ended, user_errors():
        raise RuntimeError(CLOSED)
    assert ended.value.code == errors.EXIT_LEFT_ALONE
    assert capsys.readouterr().err.startswith(
        "process 1 of 2 has ended, and this one with it; what that one says is why"
    )


def test_where_our_launcher_says_it_the_process_waits_to_be_ended_by_it(other, monkeypatch):
    waited: list[float] = []
    monkeypatch.setattr(errors.time, "sleep", waited.append)
    monkeypatch.setenv(interruption.LAUNCHER, "1")
    with pytest.raises(SystemExit), user_errors():
        raise MachineError(errors.Problem("another fault", code="HF713"))
    assert waited == []
    left = LeftAlone(errors.Problem("it has ended", code="HF713"))
    left.here = True
    with pytest.raises(SystemExit), user_errors():
        raise left
    assert waited == [errors.SECONDS_BEHIND_THE_FIRST]


def test_a_step_is_promised_only_where_all_processes_are_there(other, monkeypatch):
    said: list[str] = []
    monkeypatch.setattr(interruption, "_write", said.append)
    interruption._say_held(signal.SIGTERM)
    other.kill()
    other.wait()
    interruption._say_held(signal.SIGTERM)
    assert said == ["SIGTERM: this step is finished and saved"]
    interruption._say(signal.SIGTERM)
    assert said[1].startswith("ended by SIGTERM, since process 1 of 2 has ended: ")


def test_connections_to_other_machines_are_watched_and_none_within_this_one():
    listening = socket.create_server(("127.0.0.1", 0))
    within = socket.create_connection(listening.getsockname())
    across = socket.create_connection(listening.getsockname(), source_address=("127.0.0.2", 0))
    with listening, within, across:
        ranks.keep_connections_watched()
        assert across.getsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE) == 1
        limit = across.getsockopt(socket.IPPROTO_TCP, socket.TCP_USER_TIMEOUT)
        assert limit == 1000 * ranks.SECONDS_OF_SILENCE
        probes = [across.getsockopt(socket.IPPROTO_TCP, each) for each in (socket.TCP_KEEPIDLE, socket.TCP_KEEPINTVL)]
        assert probes[0] + probes[1] * ranks._PROBES == ranks.SECONDS_OF_SILENCE
        for each in (within, listening):
            assert each.getsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE) == 0


def test_looking_at_the_connections_leaves_no_file_open(tmp_path):
    one, other = socket.socketpair()
    with (tmp_path / "file").open("w"), socket.socket(), one, other:
        before = sorted(os.listdir("/proc/self/fd"))
        ranks.keep_connections_watched()
        assert sorted(os.listdir("/proc/self/fd")) == before


# As a destructor of gloo waits for what is in flight, and Python for a thread.
STUCK = {
    "destructor": "class Waits:\n    def __del__(self):\n        time.sleep(60)\nheld = Waits()\n",
    "thread": "threading.Thread(target=time.sleep, args=(60,)).start()\n",
}
FAILS = """
import threading, time
from hf_finetune import interruption
from hf_finetune.errors import LeftAlone, Problem, user_errors
interruption.SECONDS_TO_CLEAN_UP = 1
{stuck}
with user_errors():
    raise LeftAlone(Problem("process 1 is gone", code="HF713"))
"""


@pytest.mark.parametrize(("stuck", "code"), [("destructor", errors.EXIT_LEFT_ALONE), ("thread", -signal.SIGALRM)])
def test_nothing_keeps_a_process_that_has_said_its_last_line(stuck, code):
    rank = {"RANK": "0", "WORLD_SIZE": "2", "ACCELERATE_MIXED_PRECISION": "no"}
    began = time.monotonic()
    script = [sys.executable, "-c", FAILS.format(stuck=STUCK[stuck])]
    ended = subprocess.run(script, env=os.environ | rank, capture_output=True, text=True, check=False)
    assert (ended.returncode, ended.stderr) == (code, "process 1 is gone [HF713]\n")
    assert time.monotonic() - began < 30
