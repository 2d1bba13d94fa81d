"""The machines of a launch: how many there are, which of them this is, and where the first one listens.

Each is taken from the command line, else from what torchrun, Slurm or an operator of Kubernetes has put into the
environment, else from the launch file.
"""

from __future__ import annotations

import errno
import json
import os
import socket
from collections.abc import Iterator, Mapping
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from hf_finetune.errors import ConfigError, Problem
from hf_finetune.files import write_atomically
from hf_finetune.interruption import RESTART

# Where each stands: torchrun's first, and what is written by hand under its names; then that of PyTorch's operator for
# Kubernetes; then Slurm's, of the step before that of the job, which may have more machines.
IN_ENVIRONMENT = {
    "num_machines": (
        *("NNODES", "GROUP_WORLD_SIZE", "PET_NNODES"),
        *("SLURM_STEP_NUM_NODES", "SLURM_JOB_NUM_NODES", "SLURM_NNODES"),
    ),
    "machine_rank": ("NODE_RANK", "GROUP_RANK", "PET_NODE_RANK", "SLURM_NODEID"),
    "main_process_ip": ("MASTER_ADDR", "PET_MASTER_ADDR", "SLURM_STEP_NODELIST", "SLURM_JOB_NODELIST"),
    "main_process_port": ("MASTER_PORT", "PET_MASTER_PORT"),
}
OPTIONS = (*IN_ENVIRONMENT, "num_processes")
PORT = 29500
"""The port that accelerate takes where none is named."""
ADDRESSES = "HF_FINETUNE_ADDRESSES"
"""Set by the same command as RESTART: a file in which it is to find where each machine is, once all have met."""
_LARGEST = {"main_process_port": 65535}
_AT_LEAST_ONE = ("num_machines", "num_processes")


@dataclass(frozen=True, slots=True)
class Machines:
    """What is launched on which machine."""

    count: int
    rank: int
    """Of this machine, from 0."""
    processes: int
    """Of all machines together."""
    address: str | None
    port: int | None
    """None where the launcher finds a free one by itself: on one machine."""
    said_by: Mapping[str, str] = field(default_factory=dict)
    """What said each setting: `--machine-rank`, `SLURM_NODEID`; those of the file are left out."""

    @property
    def local(self) -> int:
        """The processes on this machine."""
        return self.processes // self.count

    def as_settings(self) -> dict[str, Any]:
        """What another than the launch file has said, under the names of accelerate's options."""
        values = {
            "num_machines": self.count,
            "machine_rank": self.rank,
            "main_process_ip": self.address,
            "main_process_port": self.port,
            "num_processes": self.processes,
        }
        return {name: values[name] for name in values if name in self.said_by}

    def describe(self) -> str:
        """The one line that says what was taken, and from where."""
        what = f"machine {self.rank} (of 0 to {self.count - 1}), {self.local} process{'es' * (self.local > 1)} on each"
        said = ", ".join(f"{name} by {source}" for name, source in self.said_by.items()) or "all by the launch file"
        return f"{what}; the first is at {self.address}, port {self.port} ({said})"


def find_machines(
    settings: Mapping[str, Any], given: Mapping[str, Any], environment: Mapping[str, str], *, file: str
) -> Machines:
    """Find the machines of a launch by `settings`, those of the launch file `file`; `given` is the command line.

    The environment counts where several machines are asked for: a job of Slurm may launch on one of its machines alone.
    Raises `ConfigError` where something is missing, or cannot be so.
    """
    values, said_by = _collect(settings, given, environment)
    count = _read(values, said_by, file, "num_machines", 1)
    local = max(1, int(settings.get("num_processes") or 1) // int(settings.get("num_machines") or 1))
    if "num_machines" in said_by and "num_processes" not in said_by and count != int(settings.get("num_machines") or 1):
        # The file says how many there are on each machine; on 4 such machines there are twice as many as on 2.
        values["num_processes"], said_by["num_processes"] = local * count, said_by["num_machines"]
    if "num_processes" not in values and settings.get("distributed_type") != "NO":
        remedy = "add it: the processes of all machines together, or type --num-processes"
        raise ConfigError(Problem("is missing", remedy, path=file, key="num_processes", code="HF605"))
    processes = _read(values, said_by, file, "num_processes", 1)
    rank = _read(values, said_by, file, "machine_rank", 0)
    port = _read(values, said_by, file, "main_process_port", PORT if count > 1 else None)
    address = values.get("main_process_ip")
    if problems := list(_list_problems(file, said_by, count, rank, processes, address, port)):
        raise ConfigError(problems)
    return Machines(count, rank, processes, address, port, said_by)


def name_restart(number: int, left: Mapping[str, int | str]) -> dict[str, str]:
    """The variable by which what is started knows that it is restart `number`, 0 for the first start.

    `left`: the machines that are left, as options of accelerate; {} where they are as they were typed.
    """
    return {RESTART: " ".join([str(number), *(f"{name}={value}" for name, value in left.items())])}


def count_restarts(environment: Mapping[str, str]) -> int | None:
    """How often the run was started again by itself; None where nobody would."""
    return int(environment[RESTART].split()[0]) if RESTART in environment else None


def list_left(environment: Mapping[str, str]) -> dict[str, int | str]:
    """The machines that are left, as options of accelerate; {} where they are as they were typed."""
    words = [word.partition("=") for word in environment.get(RESTART, "").split()[1:]]
    return {name: int(value) if value.isdecimal() else value for name, _, value in words}


def find_own_address() -> tuple[int, str]:
    """The number of this machine in a launch of torch, and the address by which the first one reaches it."""
    machine, first = int(os.environ.get("GROUP_RANK", 0)), os.environ.get("MASTER_ADDR", "localhost")
    with suppress(OSError):
        for family, kind, *_, where in socket.getaddrinfo(first, PORT, type=socket.SOCK_DGRAM):
            with suppress(OSError), socket.socket(family, kind) as toward:
                toward.connect(where)  # sends nothing: the system says by which address it would
                return machine, str(toward.getsockname()[0])
    return machine, first


def note_addresses(found: Mapping[int, str]) -> None:
    """Tell what has started this process, where it would know, by which address each machine is reached."""
    if ADDRESSES in os.environ and os.environ.get("LOCAL_RANK", "0") == "0":
        addresses = [found[machine] for machine in sorted(found)]
        write_atomically(Path(os.environ[ADDRESSES]), json.dumps(addresses), private=True)


def read_addresses(path: Path) -> list[str]:
    """What `note_addresses` has written, by the numbers of the machines; [] where they have not met."""
    with suppress(OSError, ValueError):
        addresses: list[str] = json.loads(path.read_text(encoding="utf-8"))
        return addresses
    return []


def check_port(machines: Machines) -> None:
    """Raise `ConfigError` where the first machine cannot listen at the port that was asked for.

    On one machine accelerate (1.15) takes another port by itself where that one is in use; on several it fails in a
    traceback, after the others have begun to wait.
    """
    if not machines.port or machines.rank:
        return
    with socket.socket(socket.AF_INET, socket.SOCK_STREAM) as listening:
        listening.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)  # as torch listens: one left is no hindrance
        try:
            listening.bind(("", machines.port))
            listening.listen(1)
        except OSError as refused:
            used = "is in use" if refused.errno == errno.EADDRINUSE else f"cannot be listened at ({refused.strerror})"
            what = f"port {machines.port} {used} on this machine, where the processes are to meet"
            remedy = "give another by --main-process-port, the same on every machine, or wait for the run that has it"
            key = machines.said_by.get("main_process_port", "main_process_port")
            raise ConfigError(Problem(what, remedy, key=key, code="HF722")) from refused


def check_tasks(environment: Mapping[str, str], line: str, launchers: int | None = None) -> None:
    """Raise `ConfigError` where `srun` has started tasks that do not know of each other: each would train it all.

    `line` is what was typed, `launchers` as many as are to be started: one on each machine. None is for a process that
    trains itself: those that it is in a group with are known by what torch's launchers, MPI or the user have set.
    """
    if count_restarts(environment):  # their launchers have met, fewer than Slurm has started
        return
    tasks = count_tasks(environment)
    together = _count_together(environment) if launchers is None else launchers
    if tasks is None or tasks == together or (launchers is None and tasks < together):
        return
    several = f"--nodes={together} --ntasks={together} --ntasks-per-node=1" if together > 1 else "--ntasks=1"
    started = f"Slurm has started {tasks} tasks of this" if tasks > 1 else "this runs once, in the script of the job"
    why = (
        "each would train the whole run in one folder" if together == 1 else f"it is to run once on {together} machines"
    )
    what = f"{started}, and {why}"
    raise ConfigError(Problem(what, f"type: srun {several} {line}", key="srun", code="HF724"))


def count_tasks(environment: Mapping[str, str]) -> int | None:
    """How many tasks `srun` has started this process with; 1 in the script of a job, None where there is no Slurm."""
    number = environment.get("SLURM_PROCID", "")
    if not number.isdecimal():
        return None
    # The script of a job has SLURM_PROCID=0 and SLURM_NTASKS as well; what `srun` starts has these two besides.
    of_step = environment.get("SLURM_STEP_NUM_TASKS") or (
        environment.get("SLURM_NTASKS", "") if "SLURM_STEP_ID" in environment or number != "0" else ""
    )
    return int(of_step) if of_step.isdecimal() else 1 + (number != "0")


def _count_together(environment: Mapping[str, str]) -> int:
    """How many tasks are in one group with this process: launchers of torch, or processes of MPI or by RANK."""
    names = ["PMI_SIZE", "OMPI_COMM_WORLD_SIZE", "MV2_COMM_WORLD_SIZE"]
    if environment.get("RANK"):
        names.append("GROUP_WORLD_SIZE" if environment.get("GROUP_WORLD_SIZE") else "WORLD_SIZE")
    return max([1, *(int(environment[name]) for name in names if environment.get(name, "").isdecimal())])


def first_host(nodes: str) -> str:
    """The first host of a list as Slurm writes it: `gpu[03-07,11],login` is gpu03."""
    host, depth = "", 0
    for character in nodes:
        if character == "," and not depth:
            break
        depth += {"[": 1, "]": -1}.get(character, 0)
        host += character
    # rack[1-2]n[04,06] -> rack1n04
    parts = [part.partition("]") for part in host.split("[")]
    first = [parts[0][0]] + [inside.split(",")[0].split("-")[0] + behind for inside, _, behind in parts[1:]]
    return "".join(first)


def _collect(
    settings: Mapping[str, Any], given: Mapping[str, Any], environment: Mapping[str, str]
) -> tuple[dict[str, Any], dict[str, str]]:
    """Each setting, and who said it where that is not the launch file."""
    values = {name: settings[name] for name in OPTIONS if settings.get(name) is not None}
    said_by: dict[str, str] = {}
    several = int(settings.get("num_machines") or 1) > 1 or given.get("num_machines") is not None
    for name, variables in IN_ENVIRONMENT.items() if several else ():
        for variable in variables:
            if environment.get(variable) and name not in said_by:
                values[name], said_by[name] = environment[variable], variable
        if said_by.get(name, "").endswith("NODELIST"):
            values[name] = first_host(values[name])
    for name, value in given.items():
        if value is not None:
            values[name], said_by[name] = value, f"--{name.replace('_', '-')}"
    return values, said_by


def _read(values: Mapping[str, Any], said_by: Mapping[str, str], file: str, name: str, otherwise: Any) -> Any:
    """A whole number; raises `ConfigError`."""
    given = values.get(name, otherwise)
    if given is None:
        return None
    text, least = str(given), 1 if name in _AT_LEAST_ONE else 0
    if text.isascii() and text.isdigit() and len(text) < 10 and least <= int(text) <= _LARGEST.get(name, 10**9):
        return int(text)
    what = f"expected a whole number, {least} or more{' (65535 at most)' if name in _LARGEST else ''}, found {text!r}"
    key = said_by.get(name, name)
    raise ConfigError(Problem(what, "correct it", path=None if name in said_by else file, key=key, code="HF603"))


def _list_problems(
    file: str, said_by: Mapping[str, str], count: int, rank: int, processes: int, address: str | None, port: int | None
) -> Iterator[Problem]:
    def tell(name: str, what: str, remedy: str) -> Problem:
        place = None if name in said_by else file
        return Problem(what, remedy, path=place, key=said_by.get(name, name), code="HF723")

    if processes % count:
        what = f"{processes} processes cannot be shared out evenly over {count} machines"
        yield tell("num_processes", what, "set a multiple: all processes of all machines")
    if rank >= count:
        what = f"is {rank}, and {count} machine{'s are' * (count > 1) or ' is'} numbered from 0 to {count - 1}"
        yield tell("machine_rank", what, "give each machine its own number")
    if count > 1 and not address:
        what = f"{count} machines are launched, and nothing says where the first of them is"
        remedy = "add --main-process-ip (and --machine-rank), or start it by srun or with MASTER_ADDR and NODE_RANK set"
        yield tell("main_process_ip", what, remedy)
    if count > 1 and port == 0:
        what = "is 0, a free port, which the other machines cannot know"
        yield tell("main_process_port", what, "name one, the same on every machine")
