"""`hf-finetune train --max-restarts`: a run that goes on by itself where a process or a machine was lost.

Each start is the same command in a process of its own, which is told the number of the restart and the machines that
are left; it goes on from the newest checkpoint that verifies, as it does where the command is typed again.
"""

from __future__ import annotations

import logging
import os
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Mapping, Sequence
from contextlib import suppress
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

from hf_finetune.cli.launcher import find_accelerate_config
from hf_finetune.cli.meeting import Left, Place, attend_meeting, hold_meeting
from hf_finetune.config import load_run, read_launch_file, read_recipe_name
from hf_finetune.environment import (
    ADDRESSES,
    MACHINE,
    PROCESS,
    STEP,
    Machines,
    Restart,
    count_restarts,
    find_machines,
    name_lost,
    name_restart,
    read_addresses,
    read_step,
)
from hf_finetune.errors import EXIT_LEFT_ALONE, LeftAlone, Problem
from hf_finetune.folders import list_checkpoints
from hf_finetune.interruption import adopt_orphans, describe_when_stopped, pass_signals_on
from hf_finetune.interruption import describe_kept as say_kept
from hf_finetune.metric_info import say_count
from hf_finetune.reporting import describe_kept, get_resume
from hf_finetune.shell import shell_path

logger = logging.getLogger(__name__)

SECONDS_TO_FOLLOW = 15.0
"""So long may processes live that what has started them left behind; then they are killed."""
SECONDS_TO_TELL = 15.0
"""So long the first machine is looked for, to be told that it is not to wait."""
STOPPED = (128 + signal.SIGINT, 128 + signal.SIGTERM)


def is_started_again() -> bool:
    """Whether this process is one that `start_again` has started."""
    return count_restarts(os.environ) is not None


def start_again(argv: Sequence[str], where: str, given: Mapping[str, Any], most: int, typed: Sequence[str]) -> int:
    """Run the command that was typed, again at most `most` times where a process or a machine was lost; its exit code.

    `argv`, `where` and `given` are those of `launch`, `typed` the whole command. Raises `ConfigError` where it cannot
    be read, and `LeftAlone` where the machines that are left do not meet.
    """
    config = find_accelerate_config(where)
    machines = find_machines(read_launch_file(config), given, os.environ, file=str(config))
    run = load_run(argv, read_recipe_name(argv[0], argv[1:]), say_notes=False)
    kept = partial(describe_kept, run.output_dir, typed, get_resume(run.train), pushes=run.hub is not None)
    describe_when_stopped(partial(kept, began=time.time()))
    # Processes whose launcher is killed become children of this one, which sees them end then.
    adopt_orphans()
    left = Left(machines.count, machines.rank)
    place = Place(machines.address or "", machines.port or 0, machines.count, restart=0)
    restarts: list[Restart] = []
    while True:
        code, addresses = _start(place.restart, _name_left(place, left, machines), restarts)
        place = replace(place, machines=left.count, restart=(restart := place.restart + 1), first=0)
        if not was_lost(code) or restart > most:
            _tell_first(place, left, code)
            if was_lost(code):
                logger.error("all restarts are used (%d of %d); %s", most, most, say_kept(), extra={"code": "HF727"})
            return code
        before = left.count
        place, left = _meet([place.host, *addresses[1:]], place, left, code)
        restarts.append(_note_restart(restart, code, (before, left.count), machines.local))
        fewer = f"with {say_count(left.count, 'machine')} of {before}, " if left.count < before else ""
        what = "restart %d of %d: a process or a machine was lost (exit code %d); it goes on %s%s"
        logger.warning(what, restart, most, code, fewer, _say_from(run.output_dir), extra={"code": "HF727"})


def was_lost(code: int) -> bool:
    """Whether a run that ended with this code has lost a process or a machine, and has none of its own faults.

    A signal of whoever stops it, Ctrl-C or SIGTERM, is no loss: it has said what is kept.
    """
    return code == EXIT_LEFT_ALONE or (code - 128 in signal.valid_signals() and code not in STOPPED)


def _note_restart(number: int, code: int, machines: tuple[int, int], local: int) -> Restart:
    """What report.json has of a restart; the step is not known before it trains."""
    before, after = machines
    lost = MACHINE if after < before else PROCESS
    return Restart(number, None, lost, code, machines, (before * local, after * local))


def _start(restart: int, left: Mapping[str, int | str], restarts: list[Restart]) -> tuple[int, list[str]]:
    """Run the command once, and see to it that nothing of it is left.

    Returns its exit code, as a shell has it, and where each machine is; [] where they have not met. The last of
    `restarts`, which this is, gets the step from which it went on.
    """
    # As this process was started: `python -m` has a file as its name that does not run alone.
    began = ["-m", "hf_finetune.cli"] if Path(sys.argv[0]).name == "__main__.py" else [sys.argv[0]]
    with tempfile.TemporaryDirectory() as folder:
        noted, step = Path(folder, "addresses.json"), Path(folder, "step")
        process = subprocess.Popen(
            [sys.executable, *began, *sys.argv[1:]],
            env={
                **os.environ,
                **name_restart(restart, left),
                **name_lost(restarts),
                ADDRESSES: str(noted),
                STEP: str(step),
            },
            start_new_session=True,  # Ctrl-C in a terminal would come to it twice
        )
        with pass_signals_on(process) as came:
            code = process.wait()
        addresses = read_addresses(noted)
        # Of the checkpoints the newest may not have verified: the run itself says from which it went on.
        restarts[-1:] = [replace(last, step=read_step(step)) for last in restarts[-1:]]
    # A process that its launcher has left behind would write into the folder beside those that are started next.
    end_left_behind()
    code = 128 - code if code < 0 else code
    # What was stopped is not started again.
    return (128 + came[0] if came and was_lost(code) else code), addresses


def end_left_behind() -> None:
    """Wait for what the children of this process have left behind, which has the run folder; in the end kill it."""
    import psutil

    left = psutil.Process().children(recursive=True)
    _, left = psutil.wait_procs(left, SECONDS_TO_FOLLOW)
    for each in left:
        with suppress(psutil.NoSuchProcess):
            each.kill()
    psutil.wait_procs(left, SECONDS_TO_FOLLOW)


def _name_left(place: Place, left: Left, machines: Machines) -> dict[str, int | str]:
    """The machines that are left as options of accelerate; {} while all are there."""
    if left.count == machines.count:
        return {}
    numbers = {"num_machines": left.count, "machine_rank": left.rank, "num_processes": left.count * machines.local}
    return {**numbers, **({"main_process_ip": place.host} if place.host != machines.address else {})}


def _meet(addresses: Sequence[str], place: Place, left: Left, code: int) -> tuple[Place, Left]:
    """Find out which machines are left, and where the first of them is. `addresses` are those of all that were there.

    Raises `LeftAlone` where this one cannot go on with them.
    """
    # Nobody is waited for where nobody else was there.
    if left.count == 1:
        return place, left
    why = ""
    # Two that cannot reach each other may both go on; the lock of the run folder, which they share, lets one.
    candidates = addresses[: left.rank + 1]
    for first, host in enumerate(candidates):
        place = replace(place, host=host, first=first)
        logger.info("the machines meet at %s, port %d, for restart %d", host, place.port, place.restart)
        found = hold_meeting(place) if left.rank == first else attend_meeting(place, left.rank, code, goes_on=True)
        if isinstance(found, Left):
            return place, found
        why = found.what
        if not found.is_gone or first + 1 == len(candidates):
            break
        logger.warning("%s; the next one is looked for", why, extra={"code": "HF728"})
    raise LeftAlone(Problem(why, f"look at what it says; {say_kept()}", code="HF728"))


def _tell_first(place: Place, left: Left, code: int) -> None:
    """Let the first machine know that this one has ended for a reason of its own: the others are not to go on."""
    # Else the first one waits until its time is up, and goes on without this one, into the same mistake.
    if left.rank and code not in (0, *STOPPED) and not was_lost(code):
        attend_meeting(place, left.rank, code, goes_on=False, seconds=SECONDS_TO_TELL)


def _say_from(output_dir: str) -> str:
    found = list_checkpoints(Path(output_dir))
    return f"from {shell_path(found[-1])}, or the newest before it that verifies" if found else "from the beginning"
