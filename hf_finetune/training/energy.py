"""The energy that a run takes, from counters of the machine where it lets them be read; never an estimate."""

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
    """One counter of the machine; `read` gives joules since some moment, from `range_joules` on anew; None fails."""

    kind: str
    read: Callable[[], float | None]
    range_joules: float | None = None


class EnergyMeter:
    """Adds up what counters went through between its readings, which must be closer than they take to begin anew."""

    def __init__(self, counters: Sequence[EnergyCounter]) -> None:
        self.counters = counters
        self.joules = 0.0
        self._before: list[float | None] = []

    def read(self) -> None:
        """The first reading begins."""
        now = [counter.read() for counter in self.counters]
        for counter, before, after in zip(self.counters, self._before, now, strict=False):
            self.joules += _went(before, after, counter.range_joules)
        self._before = now

    def as_dict(self) -> dict[str, Any] | None:
        """Watt hours and where they were read; None where there is no counter, or one could not be read throughout."""
        if not self.counters or math.isnan(self.joules):
            return None
        kinds = [counter.kind for counter in self.counters]
        source = ", ".join(f"{kind} of {kinds.count(kind)}" for kind in dict.fromkeys(kinds))
        return {"watt_hours": self.joules / JOULES_PER_WATT_HOUR, "source": f"counters of the whole machine: {source}"}


def machine_counters() -> list[EnergyCounter]:
    """The counters that this process may read: its CPU's packages, and the GPUs that it sees."""
    return [*rapl_counters(POWERCAP), *gpu_counters()]


def rapl_counters(folder: Path) -> list[EnergyCounter]:
    """Intel's and AMD's package counters under Linux, which most systems let only root read.

    https://docs.kernel.org/power/powercap/powercap.html
    """
    found = []
    for zone in sorted(folder.glob("intel-rapl:*")):
        if not re.fullmatch(r"intel-rapl:\d+", zone.name):  # a part of a package
            continue
        read, span = partial(_microjoules, zone / "energy_uj"), _microjoules(zone / "max_energy_range_uj")
        name = zone / "name"
        if not name.is_file() or not name.read_text().startswith("package") or read() is None:
            continue
        found.append(EnergyCounter("CPU packages (RAPL)", read, span))
    return found


def gpu_counters() -> list[EnergyCounter]:
    """NVIDIA's counters of the GPUs that this process sees; none where driver or GPU (before Volta, MIG) has none.

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
    for index in range(torch.cuda.device_count()):
        name = f"GPU-{torch.cuda.get_device_properties(index).uuid}".encode()
        handle = ctypes.c_void_p()
        if nvml.nvmlDeviceGetHandleByUUID(name, ctypes.byref(handle)) != 0:
            continue
        if _gpu_joules(nvml, handle) is not None:
            found.append(EnergyCounter("GPUs (NVML)", partial(_gpu_joules, nvml, handle)))
    return found


def _went(before: float | None, after: float | None, span: float | None) -> float:
    """Joules from one reading to the next; NaN where a counter could not be read, or went back by itself."""
    if before is None or after is None or (after < before and span is None):
        return math.nan
    return after - before if after >= before else after - before + (span or 0.0)


def _microjoules(file: Path) -> float | None:
    try:
        return int(file.read_text(encoding="ascii")) / 1e6
    except (OSError, ValueError):
        return None


def _gpu_joules(nvml: ctypes.CDLL, handle: ctypes.c_void_p) -> float | None:
    energy = ctypes.c_ulonglong()
    refused = nvml.nvmlDeviceGetTotalEnergyConsumption(handle, ctypes.byref(energy)) != 0
    return None if refused else energy.value / 1e3
