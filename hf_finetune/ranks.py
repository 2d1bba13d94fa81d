"""Which of several processes this is, by what started them, and what has become of the others.

is_first_rank              it speaks for them
name_launch                what they have in common
keep_connections_watched   a machine that is gone is noticed, which sends nothing any more, not even an end
remember_processes         that there are these
find_gone                  those that have ended
note_said, was_said        one of them has told the user, and the others need not
describe_lost              what an error of torch.distributed comes from
"""

from __future__ import annotations

import hashlib
import os
import platform
import re
import socket
import sys
import time
from collections.abc import Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

# Where the number of a process stands: torch's launchers (and accelerate's) first, which may run below one of the
# others; then MPI's as accelerate 1.15 reads them (MPICH, Open MPI, MVAPICH2); then Slurm's.
RANKS = ("RANK", "PMI_RANK", "OMPI_COMM_WORLD_RANK", "MV2_COMM_WORLD_RANK", "SLURM_PROCID")

SECONDS_OF_SILENCE = 30
"""So long a connection to another machine may stay without an answer of its system, however busy its processes are."""

_PROBES = 5
_SECONDS_TO_BE_GONE = 1.0
"""Connections of a killed process are closed a moment before the process itself is gone."""

# "[.../gloo/transport/tcp/pair.cc:547] Connection closed by peer [10.0.0.2]:33120" -> 10.0.0.2
_PEER = re.compile(r"\[([\da-f.:]{2,45})\]:\d")
_TIMED_OUT = re.compile(r"Timed out waiting (\d+)ms|wait timeout after (\d+)ms")
_NO_ANSWER = re.compile(r"(Connection timed out|No route to host|Network is unreachable|Network is down|Host is down)")
# NCCL's, and those of the store through which processes find each other (torch 2.13).
_KINDS = ("DistBackendError", "DistNetworkError", "DistStoreError")
_NOT_STARTED = "EADDRINUSE"


def is_first_rank(environment: Mapping[str, str] | None = None) -> bool:
    """Whether this process is the first of those that were started together, or the only one: it speaks for them.

    For what happens before `PartialState` knows. In the shell of an allocation (`salloc`, `srun --pty`) Slurm numbers
    the one task that is there 0 as well.
    """
    environment = os.environ if environment is None else environment
    number = next((environment[name] for name in RANKS if environment.get(name)), "0")
    return not number.isdecimal() or int(number) == 0


def name_launch(environment: Mapping[str, str] | None = None) -> str | None:
    """What the processes that were started together on one machine have in common; None for one that is on its own."""
    environment = os.environ if environment is None else environment
    if not any(environment.get(name) for name in RANKS):
        return None
    return f"{platform.node()}:{os.getppid()}"


@dataclass(frozen=True, slots=True)
class Process:
    """A process of a run."""

    rank: int
    machine: str
    """The same for those that see each other's numbers and connections."""
    pid: int


@dataclass(frozen=True, slots=True)
class Lost:
    """Why a process cannot go on."""

    what: str
    here: bool
    """Whether it is a process of this machine that has ended: what has launched it knows how."""


_processes: list[Process] = []


def describe_self(rank: int) -> Process:
    """This process, as the others are to know it."""
    spaces = []
    for kind in ("pid", "net"):
        with suppress(OSError):
            spaces.append(os.readlink(f"/proc/self/ns/{kind}"))
    return Process(rank, " ".join([platform.node(), *spaces]), os.getpid())


def remember_processes(found: Sequence[Process]) -> None:
    """From here on `found` are all processes of the run; where there are none, nobody is waited for any more."""
    _processes[:] = found


def find_gone() -> list[int]:
    """The ranks on this machine that have ended, as far as is known."""
    return [each.rank for each in _list_near() if _read_state(each.pid) in ("", "Z", "X")]


def describe_gone(ranks: Sequence[int]) -> str:
    """Processes that have ended: `process 1 of 2 has ended`."""
    numbers, several = ", ".join(map(str, ranks)), len(ranks) > 1
    return f"process{'es' * several} {numbers} of {len(_processes)} {'have' if several else 'has'} ended"


def note_said(text: str) -> None:
    """Let the other processes of this machine know that this one has told its user `text`."""
    store = _find_store()
    with suppress(RuntimeError):  # who keeps the store may be gone
        if store is not None:
            store.set(_name_said(text), "")


def was_said(text: str) -> bool:
    """Whether a process of this machine has told the user `text`, as far as is known."""
    store = _find_store()
    with suppress(RuntimeError):
        return store is not None and bool(store.check([_name_said(text)]))
    return False


def _find_store() -> Any:
    """What the processes found each other by, where they have."""
    torch: Any = sys.modules.get("torch.distributed")  # not imported for this: most commands need no torch
    if torch is None or not torch.is_available() or not torch.is_initialized():
        return None
    return torch.distributed_c10d._get_default_store()


def _name_said(text: str) -> str:
    return f"said by machine {os.environ.get('GROUP_RANK', '0')}: {hashlib.sha256(text.encode()).hexdigest()}"


def describe_lost(raised: BaseException) -> Lost | None:
    """Why this process cannot go on with the others; None where `raised` is no error of waiting for them."""
    said = str(raised)
    if _NOT_STARTED in said or not ("gloo/transport" in said or type(raised).__name__ in _KINDS):
        return None
    timed_out, peer = _TIMED_OUT.search(said), _PEER.search(said)
    if (dead := _NO_ANSWER.search(said)) is not None:
        where = f"the machine at {peer[1]}" if peer else "another machine"
        return Lost(f"{where} cannot be reached ({dead[1]}): it is gone, or the network to it", here=False)
    if timed_out is not None:
        silent = f"has not answered for {int(timed_out[1] or timed_out[2]) / 1000:g} s (train.ddp_timeout)"
        if stopped := _find_stopped():
            who = f"process {stopped[0]} of {len(_processes)}, which a signal has stopped,"
            return Lost(f"{who} {silent}", here=False)
        return Lost(f"another process of this run {silent}", here=False)
    until = time.monotonic() + _SECONDS_TO_BE_GONE
    while not (gone := find_gone()) and _list_near() and time.monotonic() < until:
        time.sleep(0.01)
    if gone:
        return Lost(f"{describe_gone(gone)}, and this one with it", here=True)
    far = peer is not None and not _list_near() and bool(_processes)
    what = f"a process on the machine at {peer[1]}" if far and peer else "another process of this run"
    return Lost(f"{what} has ended, and this one with it", here=False)


def keep_connections_watched() -> None:
    """Let the system end the connections of this process to other machines that do not answer for half a minute.

    gloo, NCCL and the store of torch set nothing of that: where a machine or the network is gone without an end of the
    connection, they wait for `train.ddp_timeout`, half an hour, which a process that works may need. A machine that is
    busy answers: its system does. Connections within this machine are left as they are.
    """
    folder = Path("/proc/self/fd")
    if not folder.is_dir():  # another system than Linux
        return
    for name in os.listdir(folder):
        with suppress(OSError):  # it may have been closed since
            if (folder / name).readlink().name.startswith("socket:"):
                _watch_if_connected(int(name))


def _watch_if_connected(number: int) -> None:
    copy = os.dup(number)
    try:
        connection = socket.socket(fileno=copy)
    except OSError:  # which leaves the copy open
        os.close(copy)
        return
    with connection:
        if connection.family in (socket.AF_INET, socket.AF_INET6) and connection.type == socket.SOCK_STREAM:
            _watch(connection)


def _watch(connection: socket.socket) -> None:
    if connection.getpeername()[0] == connection.getsockname()[0]:  # raises where it only listens
        return
    each = SECONDS_OF_SILENCE // (_PROBES + 1)
    connection.setsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE, 1)
    connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_KEEPIDLE, each)
    connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_KEEPINTVL, each)
    connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_KEEPCNT, _PROBES)
    # Probes are sent only where nothing waits for an answer.
    connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_USER_TIMEOUT, SECONDS_OF_SILENCE * 1000)


def _list_near() -> list[Process]:
    """The other processes of this machine."""
    here = next((each.machine for each in _processes if each.pid == os.getpid()), None)
    return [each for each in _processes if each.machine == here and each.pid != os.getpid()]


def _find_stopped() -> list[int]:
    return [each.rank for each in _list_near() if _read_state(each.pid) in ("T", "t")]


def _read_state(pid: int) -> str:
    """The letter of what a process does (proc(5)); "" where there is none, "?" where that cannot be known."""
    if not Path("/proc/self/stat").exists():
        return "?"
    try:
        # Its name stands in parentheses, and may hold some itself.
        return Path(f"/proc/{pid}/stat").read_text(errors="replace").rpartition(")")[2].split()[0]
    except (OSError, IndexError):
        return ""
