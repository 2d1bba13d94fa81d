"""Out of memory, on a CPU or a GPU: what was asked for, what there is, and what to set."""

from __future__ import annotations

import errno
import re
import sys
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path

# PyTorch's and NumPy's messages; torch raises a bare RuntimeError on a CPU (2.13).
_MESSAGES = re.compile(
    r"DefaultCPUAllocator|not enough memory|CUDA out of memory|CUBLAS_STATUS_ALLOC_FAILED|Cannot allocate memory"
)
# "DefaultCPUAllocator: can't allocate memory: you tried to allocate 4000000000000 bytes." -> 4000000000000, bytes
_ASKED = re.compile(r"(?:tried to allocate|Unable to allocate|Tried to allocate) ([\d.]+) ?(bytes|[KMGTPE]iB|B)")
_UNITS = {"KiB": 2**10, "MiB": 2**20, "GiB": 2**30, "TiB": 2**40, "PiB": 2**50, "EiB": 2**60}
OTHERWISE = "give it smaller batches or shorter rows, or a machine with more memory"

_remedy: list[Callable[[], str]] = []


def advise_when_out_of_memory(remedy: Callable[[], str]) -> None:
    """Let `remedy` say which settings of the run that is going on take less memory."""
    _remedy[:] = [remedy]


def forget_advice() -> None:
    """Forget the run that is over: what comes after it in this process has other settings."""
    _remedy.clear()


def describe_memory_error(raised: BaseException) -> tuple[str, str] | None:
    """What is wrong, with the sizes, and what helps; None where `raised` is no lack of memory."""
    if not is_out_of_memory(raised):
        return None
    found = _ASKED.search(str(raised))
    asked = f": {format_size(float(found[1]) * _UNITS.get(found[2], 1))} were asked for" if found else ""
    on_gpu = "CUDA" in str(raised) or "CUBLAS" in str(raised)
    there = ""
    with suppress(Exception):  # the less is at hand, the less can be said
        there = f"; {_describe_gpu() if on_gpu else _describe_ram()}"
    return f"out of memory{asked}{there}", _remedy[0]() if _remedy else OTHERWISE


def is_out_of_memory(raised: BaseException) -> bool:
    """Whether an allocation has failed: in Python, NumPy, torch on a CPU or a GPU, or the system."""
    # By its name, and not `torch.OutOfMemoryError`: torch may not be loaded, and has no place to be loaded to.
    if isinstance(raised, MemoryError) or any(kind.__name__ == "OutOfMemoryError" for kind in type(raised).__mro__):
        return True
    if isinstance(raised, OSError) and raised.errno == errno.ENOMEM:
        return True
    return isinstance(raised, RuntimeError | OSError) and bool(_MESSAGES.search(str(raised)))


def _describe_gpu() -> str:
    import torch

    free, total = torch.cuda.mem_get_info()
    device = torch.cuda.get_device_name()
    used = format_size(torch.cuda.memory_reserved())
    return f"this process has {used} of the {format_size(total)} of the {device}, and {format_size(free)} are free"


def _describe_ram() -> str:
    used, free = _read_ram()
    limit = _read_limit()
    said = f"this process has {format_size(used)}, and {format_size(free)} are available"
    return said if limit is None else f"{said}; its limit is {format_size(limit)} (ulimit -v)"


def _read_ram() -> tuple[int, int]:
    """Bytes that this process has in memory, and that are available to it."""
    status, machine = Path("/proc/self/status"), Path("/proc/meminfo")
    if status.is_file() and machine.is_file():  # without an import, which would take memory itself
        fields = [re.search(rf"^{name}:\s+(\d+) kB", path.read_text(encoding="ascii"), re.MULTILINE)
                  for name, path in (("VmRSS", status), ("MemAvailable", machine))]  # fmt: skip
        used, free = (int(each[1]) * 1024 if each else 0 for each in fields)
        return used, free
    import psutil

    return psutil.Process().memory_info().rss, psutil.virtual_memory().available


def _read_limit() -> int | None:
    """The bytes of address space that this process is limited to, if it is."""
    if sys.platform == "win32":
        return None
    import resource

    limit = resource.getrlimit(resource.RLIMIT_AS)[0]
    return None if limit == resource.RLIM_INFINITY else limit


def format_size(size: float) -> str:
    for unit, name, digits in ((2**30, "GiB", 1), (2**20, "MiB", 0)):
        if size >= unit:
            return f"{size / unit:,.{digits}f} {name}"
    return f"{size / 2**10:,.0f} KiB"
