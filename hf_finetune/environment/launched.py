"""The `accelerate launch` that started this process, of which the process itself is told little."""

from __future__ import annotations

import os
from collections.abc import Sequence
from pathlib import Path

# What says where a run runs; the other options name machines and their addresses, or say it in a file.
_WITH_VALUE = ("--config_file", "--num_processes", "--mixed_precision")
_FLAGS = ("--cpu", "--multi_gpu")


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
