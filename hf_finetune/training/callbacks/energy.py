"""Energy of a run, read from hardware counters where the machine allows it; never an estimate."""

from __future__ import annotations

import ctypes
import math
import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import torch

POWERCAP = Path("/sys/class/powercap")
JOULES_PER_WATT_HOUR = 3600.0


@dataclass(frozen=True)
class EnergyCounter:
    """A hardware counter. `read` returns joules since an arbitrary start, modulo `range_joules`; None if it fails."""

    kind: str
    read: Callable[[], float | None]
    range_joules: float | None = None


class EnergyMeter:
    """Sums counter deltas; read it more often than the counters wrap around."""

    def __init__(self, counters: Sequence[EnergyCounter]) -> None:
        self.counters = counters
        self.joules = 0.0
        self._before: list[float | None] = []

    def read(self) -> None:
        """Add the energy since the last reading; the first reading only sets the start."""
        now = [counter.read() for counter in self.counters]
        for counter, before, after in zip(self.counters, self._before, now, strict=False):
            self.joules += _compute_delta(before, after, counter.range_joules)
        self._before = now

    def as_dict(self) -> dict[str, Any] | None:
        """Watt hours and their source; None without a counter, or where one could not be read every time."""
        if not self.counters or math.isnan(self.joules):
            return None
        kinds = [counter.kind for counter in self.counters]
        source = ", ".join(f"{kind} of {kinds.count(kind)}" for kind in dict.fromkeys(kinds))
        return {"watt_hours": self.joules / JOULES_PER_WATT_HOUR, "source": f"counters of the whole machine: {source}"}


def find_energy_counters() -> list[EnergyCounter]:
    """Find the counters that this process may read: the CPU packages, and its visible GPUs."""
    return [*find_rapl_counters(POWERCAP), *find_gpu_counters()]


def find_rapl_counters(folder: Path) -> list[EnergyCounter]:
    """Find the package counters of Intel and AMD CPUs under Linux; most systems let only root read them.

    https://docs.kernel.org/power/powercap/powercap.html
    """
    found = []
    for zone in sorted(folder.glob("intel-rapl:*")):
        if not re.fullmatch(r"intel-rapl:\d+", zone.name):  # intel-rapl:0:1 is a part of package 0
            continue
        read, span = partial(_read_joules, zone / "energy_uj"), _read_joules(zone / "max_energy_range_uj")
        name = zone / "name"
        if not name.is_file() or not name.read_text().startswith("package") or read() is None:
            continue
        found.append(EnergyCounter("CPU packages (RAPL)", read, span))
    return found


def find_gpu_counters() -> list[EnergyCounter]:
    """Find the counters of the NVIDIA GPUs that this process sees; before Volta, and under MIG, there are none.

    https://docs.nvidia.com/deploy/nvml-api/group__nvmlDeviceQueries.html: millijoules since the driver was loaded.
    """
    if not torch.cuda.is_available() or torch.version.hip is not None:
        return []
    try:
        nvml = ctypes.CDLL("libnvidia-ml.so.1")
    except OSError:
        return []
    if nvml.nvmlInit_v2() != 0:
        return []
    found = []
    # By UUID: NVML numbers all GPUs of the machine, torch only those in CUDA_VISIBLE_DEVICES.
    for index in range(torch.cuda.device_count()):
        name = f"GPU-{torch.cuda.get_device_properties(index).uuid}".encode()
        handle = ctypes.c_void_p()
        if nvml.nvmlDeviceGetHandleByUUID(name, ctypes.byref(handle)) != 0:
            continue
        if _read_gpu_joules(nvml, handle) is not None:
            found.append(EnergyCounter("GPUs (NVML)", partial(_read_gpu_joules, nvml, handle)))
    return found


def _compute_delta(before: float | None, after: float | None, span: float | None) -> float:
    """Joules between two readings; NaN where one failed, or a counter without a range went backwards."""
    # A counter with range 100 that reads 90 and then 20 has wrapped around: 20 - 90 + 100 = 30.
    if before is None or after is None or (after < before and span is None):
        return math.nan
    return after - before if after >= before else after - before + (span or 0.0)


def _read_joules(file: Path) -> float | None:
    try:
        return int(file.read_text(encoding="ascii")) / 1e6
    except (OSError, ValueError):
        return None


def _read_gpu_joules(nvml: ctypes.CDLL, handle: ctypes.c_void_p) -> float | None:
    energy = ctypes.c_ulonglong()
    refused = nvml.nvmlDeviceGetTotalEnergyConsumption(handle, ctypes.byref(energy)) != 0
    return None if refused else energy.value / 1e3
