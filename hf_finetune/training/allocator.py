"""Memory allocator and garbage collector settings for training on a CPU."""

from __future__ import annotations

import ctypes
import gc
import platform

# Parameters of glibc's mallopt(3); 32 MiB is the largest mmap threshold it accepts.
M_TRIM_THRESHOLD, M_TOP_PAD, M_MMAP_THRESHOLD = -1, -2, -3
MIB = 2**20
PYTHONS_THRESHOLD = (700, 10, 10)


def keep_freed_memory() -> bool:
    """Make glibc keep and reuse the memory of freed tensors, and return whether it accepted the settings.

    The process then keeps its peak memory, until `return_freed_memory`.
    """
    # By default glibc returns each step's activations to the system, and page faults bring them back in the next step:
    # a fifth of the time of a small model's step (benchmarks/throughput.py).
    if platform.libc_ver()[0] != "glibc":
        return False
    libc = ctypes.CDLL(None)
    accepted = (
        libc.mallopt(M_MMAP_THRESHOLD, 32 * MIB),
        libc.mallopt(M_TRIM_THRESHOLD, 1024 * MIB),
        libc.mallopt(M_TOP_PAD, 64 * MIB),
    )
    return all(accepted)


def return_freed_memory() -> None:
    """Give the memory of freed tensors back to the system; the next tensors take it anew, a page at a time."""
    if platform.libc_ver()[0] == "glibc":
        ctypes.CDLL(None).malloc_trim(0)


def freeze_imported_objects() -> None:
    """Exclude all objects that exist so far, those made by imports, from garbage collection."""
    # A full collection, and the one at exit, would walk a million objects of torch and transformers: 1 to 2 s of a run.
    # The launcher raises the thresholds while it imports; Python's own are set again, since activations in reference
    # cycles must be freed.
    gc.freeze()
    gc.set_threshold(*PYTHONS_THRESHOLD)
