"""How this process gets its memory on a CPU."""

from __future__ import annotations

import ctypes
import gc
import platform

# Parameters of glibc's mallopt(3); the largest mmap threshold that it takes is 32 MiB.
M_TRIM_THRESHOLD, M_TOP_PAD, M_MMAP_THRESHOLD = -1, -2, -3
MIB = 2**20
PYTHONS_THRESHOLD = (700, 10, 10)


def keep_freed_memory() -> bool:
    """Let glibc reuse the memory of freed tensors at once, and say whether it took the advice.

    By default it returns each step's activations to the system and faults them in again page by page in the next one:
    a fifth of the time of a small model's step (benchmarks/throughput.py). The process keeps its peak instead.
    """
    if platform.libc_ver()[0] != "glibc":
        return False
    libc = ctypes.CDLL(None)
    taken = (
        libc.mallopt(M_MMAP_THRESHOLD, 32 * MIB),
        libc.mallopt(M_TRIM_THRESHOLD, 1024 * MIB),
        libc.mallopt(M_TOP_PAD, 64 * MIB),
    )
    return all(taken)


def leave_imports_alone() -> None:
    """Take all that exists so far, which is what the imports made and stays, out of the garbage collector's rounds.

    It would walk a million objects of torch and its kin in each full round and once more at exit, 1 to 2 s of a run.
    From here on it collects as often as Python has it: activations that hang in cycles are wanted back.
    """
    gc.freeze()
    gc.set_threshold(*PYTHONS_THRESHOLD)
