"""Which of several processes this is, by what started them."""

from __future__ import annotations

import os
import platform
from collections.abc import Mapping

# Where the number of a process stands: torch's launchers (and accelerate's) first, which may run below one of the
# others; then MPI's as accelerate 1.15 reads them (MPICH, Open MPI, MVAPICH2); then Slurm's.
RANKS = ("RANK", "PMI_RANK", "OMPI_COMM_WORLD_RANK", "MV2_COMM_WORLD_RANK", "SLURM_PROCID")


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
