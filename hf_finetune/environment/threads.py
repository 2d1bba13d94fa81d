"""The threads that torch computes with: as many as this process has cores, and asleep while they wait for long.

Between two operations OpenMP's threads spin by default, each keeping a core busy, until the last of them arrives; where
another process has one of the cores, that one arrives late and a step takes many times as long (benchmarks/busy_core).
To sleep at once and be woken costs a small model a third of its speed: where there are cores for all threads as the
process begins, they spin for some tenths of a millisecond first. OpenMP reads its settings once, when torch is loaded:
they are set when this package is first imported.

The number depends on the machine and never on how busy it is: sums of another number of threads differ in their last
digits, and a run is to be the same tomorrow. How they wait changes no sum.
"""

from __future__ import annotations

import logging
import os
import sys
import time
from collections.abc import Iterator, MutableMapping
from pathlib import Path

from hf_finetune.environment.launched import is_set_by_the_launcher

logger = logging.getLogger(__name__)

COUNT, POLICY, SPINS = "OMP_NUM_THREADS", "OMP_WAIT_POLICY", "GOMP_SPINCOUNT"
# Each of them says how threads wait; the second is of GNU's OpenMP, which torch brings, the third of Intel's.
WAITING = (POLICY, SPINS, "KMP_BLOCKTIME")
SHORT = "10000"
"""Turns of a waiting thread before it sleeps."""
_LOOKS, _SECONDS_BETWEEN = 3, 0.001
# The value of OMP_NUM_THREADS that we have set: another one is the user's.
OURS = "HF_FINETUNE_THREADS"


def set_up_threads(environment: MutableMapping[str, str]) -> None:
    """Set how many threads torch will use and how they wait, unless the user has; nothing where torch is loaded."""
    if "torch" in sys.modules:
        return
    if not is_users_own(environment):
        share_threads(environment, int(environment.get("LOCAL_WORLD_SIZE", "1")))
    if not any(name in environment for name in WAITING):
        environment[POLICY] = "PASSIVE"
        if sys.platform == "linux" and has_idle_cores(int(environment[COUNT])):
            environment[SPINS] = SHORT  # of GNU's OpenMP, for which it stands above the policy


def has_idle_cores(threads: int, load: Path = Path("/proc/loadavg")) -> bool:
    """Whether the machine has a core for each of several threads beside what else it computes now."""
    if threads < 2:
        return False
    running = []
    for look in range(_LOOKS):
        if look:
            time.sleep(_SECONDS_BETWEEN)
        # "0.20 0.18 0.12 1/80 11206": of 80 threads one runs, which is this.
        running.append(_read(load).partition("/")[0].rpartition(" ")[2])
    others = min(int(each) if each.isdecimal() else sys.maxsize for each in running) - 1
    return threads + others <= (os.cpu_count() or 1)


def share_threads(environment: MutableMapping[str, str], processes: int) -> None:
    """Give each of so many processes its share of the cores, unless the user has set another number."""
    if not is_users_own(environment):
        # 2 processes on 4 cores: 2 threads each. With 4 each, every operation would wait for a thread without a core.
        environment[COUNT] = environment[OURS] = str(max(1, count_cores() // processes))


def is_users_own(environment: MutableMapping[str, str]) -> bool:
    """Whether the user has set OMP_NUM_THREADS: not we, and not `accelerate launch`, which always does."""
    given = environment.get(COUNT)
    return given is not None and given != environment.get(OURS) and not is_set_by_the_launcher(COUNT)


def describe_threads() -> str:
    """`2 threads, waiting asleep (OMP_WAIT_POLICY=PASSIVE)`, by the environment: torch need not be loaded."""
    count = os.environ.get(COUNT, str(count_cores()))
    given = [f"{name}={os.environ[name]}" for name in WAITING if name in os.environ] or ["OpenMP's default"]
    waiting = {
        (f"{POLICY}=PASSIVE",): "asleep",
        (f"{POLICY}=PASSIVE", f"{SPINS}={SHORT}"): "a moment awake, then asleep",
    }.get(tuple(given), "as you have set it")
    return f"{count} thread{'s' * (count != '1')}, waiting {waiting} ({', '.join(given)})"


def keep_threads(began_with: int | None) -> int:
    """Compute with the number of threads that a resumed run began with, if any; returns the number that is used.

    The user's own OMP_NUM_THREADS wins, which is said. Every rank calls it.
    """
    import torch

    now = torch.get_num_threads()
    if began_with is None or began_with == now:
        return now
    if is_users_own(os.environ):
        logger.warning(
            "%d threads, as OMP_NUM_THREADS says; the run began with %d, so that its figures may differ in their last "
            "digits from those of a run that was not interrupted", now, began_with, extra={"code": "HF911"},
        )  # fmt: skip
        return now
    torch.set_num_threads(began_with)
    logger.info("%d threads, as the run began with (here it would be %d)", began_with, now)
    return began_with


def count_cores() -> int:
    """Count the cores that this process may use: its affinity, and the quota of its container."""
    # os.cpu_count() counts the whole machine, also in a container that may use two of its cores.
    allowed = len(os.sched_getaffinity(0)) if sys.platform == "linux" else os.cpu_count() or 1
    quotas = _read_quotas(Path("/sys/fs/cgroup"), Path("/proc/self/cgroup"))
    return max(1, int(min([allowed, *quotas])))


def _read_quotas(root: Path, own: Path) -> Iterator[float]:
    """The quota in cores of each control group that this process is in, where there is one (cgroup v2, then v1)."""
    for folder in _list_groups(root, own):
        # "150000 100000" is a core and a half: one thread. A group above may allow less than a process's own.
        quota, _, period = _read(folder / "cpu.max").partition(" ")
        if quota.isdecimal() and period.isdecimal():  # "max" is none
            yield int(quota) / int(period)
    for folder in (root / "cpu", root / "cpu,cpuacct"):
        quota = _read(folder / "cpu.cfs_quota_us")
        if quota.isdecimal():  # -1 is none
            yield int(quota) / int(_read(folder / "cpu.cfs_period_us") or "100000")


def _list_groups(root: Path, own: Path) -> list[Path]:
    """The folder of this process's group and those above it: `0::/user.slice/x` is below both."""
    place = next((line[3:] for line in _read(own).splitlines() if line.startswith("0::")), "/")
    parts = [part for part in place.split("/") if part not in ("", "..")]
    return [root.joinpath(*parts[:depth]) for depth in range(len(parts), -1, -1)]


def _read(path: Path) -> str:
    try:
        return path.read_text(encoding="ascii", errors="replace").strip()
    except OSError:
        return ""
