"""What started this process: `accelerate launch`, of which it is told little, and `--max-restarts`, of which more."""

from __future__ import annotations

import json
import os
from collections.abc import Mapping, Sequence
from contextlib import suppress
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from hf_finetune.files import write_atomically

RESTARTS = "HF_FINETUNE_RESTARTS"
"""Set beside RESTART by the same command: the restarts until now, this one the last of them, as JSON."""
STEP = "HF_FINETUNE_STEP"
"""Set by it too: a file in which it is to find from which step the run goes on, once it trains."""
PROCESS, MACHINE = "process", "machine"

# What says where a run runs; the other options name machines and their addresses, or say it in a file.
_WITH_VALUE = ("--config_file", "--num_processes", "--mixed_precision")
_FLAGS = ("--cpu", "--multi_gpu")


@dataclass(frozen=True, slots=True)
class Restart:
    """A start of a run that `--max-restarts` has made; `distributed.restarts` of report.json has them."""

    number: int
    """From 1, of those of one command."""
    step: int | None
    """From which it went on; None where it did not come to that, or has not yet."""
    lost: str
    """PROCESS or MACHINE."""
    exit_code: int
    """With which the processes of this machine had ended."""
    machines: tuple[int, int]
    """Before and after."""
    processes: tuple[int, int]

    def as_dict(self) -> dict[str, Any]:
        """As JSON has it."""
        return asdict(self) | {"machines": [*self.machines], "processes": [*self.processes]}


def name_lost(restarts: Sequence[Restart]) -> dict[str, str]:
    """The variable by which what is started knows the restarts until now."""
    return {RESTARTS: json.dumps([each.as_dict() for each in restarts])}


def list_restarts(environment: Mapping[str, str]) -> list[Restart]:
    """What `name_lost` has named."""
    return [read_restart(each) for each in json.loads(environment.get(RESTARTS, "[]"))]


def read_restart(written: Any) -> Restart:
    """A restart from JSON. Raises `ValueError`, `TypeError` or `KeyError` where it is none."""
    step, lost = written["step"], written["lost"]
    if lost not in (PROCESS, MACHINE):
        raise ValueError(f"neither {PROCESS} nor {MACHINE}")
    machines, processes = (_read_counts(written[name], 2) for name in ("machines", "processes"))
    number, code = _read_counts([written["number"], written["exit_code"]], 2)
    if step is not None:
        [step] = _read_counts([step], 1)
    return Restart(number, step, lost, code, (machines[0], machines[1]), (processes[0], processes[1]))


def _read_counts(written: Any, many: int) -> list[int]:
    # A truth value is a number to Python.
    if not isinstance(written, list) or len(written) != many or any(type(each) is not int for each in written):
        raise ValueError(f"not {many} whole numbers")
    return written


def note_step(step: int) -> None:
    """Tell what has started this process, where it would know, from which step it goes on."""
    if STEP in os.environ and os.environ.get("LOCAL_RANK", "0") == "0":
        write_atomically(Path(os.environ[STEP]), str(step), private=True)


def read_step(path: Path) -> int | None:
    """What `note_step` has written; None where training did not begin."""
    with suppress(OSError, ValueError):
        return int(path.read_text(encoding="utf-8"))
    return None


def read_launch_options() -> list[str]:
    """The options of the `accelerate launch` above this process, paths shortened to their last two parts; [] if none.

    Accelerate (1.15) passes its configuration on as variables of the environment, and not the name of its file.
    """
    import psutil

    try:
        return select_launch_options(psutil.Process(os.getppid()).cmdline())
    except psutil.Error:  # it has ended, or is another user's
        return []


def is_set_by_the_launcher(variable: str) -> bool:
    """Whether `accelerate launch` has put this variable into the environment, and its user has not."""
    # It sets OMP_NUM_THREADS always (1.15): to the cores of the machine on a CPU, else to 1.
    if "ACCELERATE_MIXED_PRECISION" not in os.environ:
        return False
    import psutil

    try:
        above = psutil.Process(os.getppid())
        command, given = above.cmdline(), above.environ()
    except psutil.Error:
        return False
    asked = any(word.startswith("--num_cpu_threads_per_process") for word in command)
    return bool(_find_accelerate(command)) and variable not in given and not asked


def select_launch_options(command: Sequence[str]) -> list[str]:
    """`python .../accelerate launch --config_file a/b/c.yaml --num_machines 2 x.py` as `--config_file b/c.yaml`."""
    options = list(_list_options(command))
    kept: list[str] = []
    while options:
        name, equals, value = options.pop(0).partition("=")
        if name in _WITH_VALUE and (equals or options):
            kept += [name, str(Path(*Path(value if equals else options.pop(0)).parts[-2:]))]
        elif name in _FLAGS:
            kept.append(name)
    return kept


def _list_options(command: Sequence[str]) -> Sequence[str]:
    """What stands between `launch` and the script; () where this is no command of accelerate."""
    rest = command[_find_accelerate(command) :] if _find_accelerate(command) else ()
    scripts = [number for number, each in enumerate(rest) if each.endswith(".py")]
    return rest[: scripts[0]] if scripts else ()


def _find_accelerate(command: Sequence[str]) -> int:
    """The place of the first option of `accelerate launch` in a command; 0 where it is another command."""
    # ["python", "/bin/accelerate", "launch", "--cpu", "x.py"] -> 3, the place of --cpu.
    for place, word in enumerate(command[:4], start=1):
        name = Path(word).name
        if name in ("accelerate", "accelerate.exe") and list(command[place : place + 1]) == ["launch"]:
            return place + 1
        if name in ("accelerate.commands.launch", "accelerate-launch"):
            return place
    return 0
