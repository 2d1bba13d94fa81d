"""The devices that this machine has, detected without importing torch: a run file is validated in a second."""

from __future__ import annotations

import ctypes
import functools
import importlib.metadata
import os
import platform
import sys
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

Accelerator = Literal["cpu", "cuda", "mps", "other"]

# CU_DEVICE_ATTRIBUTE_COMPUTE_CAPABILITY_MAJOR and _MINOR of the CUDA driver API
_CAPABILITY_MAJOR, _CAPABILITY_MINOR = 75, 76
# Instructions that make bf16 fast on a CPU, as Linux names them.
_FAST_BF16 = ("avx512_bf16", "amx_bf16", "bf16")
# How many times as long as in float32 a training step takes where bf16 is emulated, with oneDNN's AVX-512 kernels and
# without: benchmarks/emulated_bf16.py on an AMD EPYC (Zen 4; torch 2.13, one thread) whose bf16 was hidden from it.
_EMULATED_WITH_AVX512, _EMULATED = 2, 13
_ONEDNN_BF16 = ("avx512bw", "avx512vl", "avx512dq")
TRUE = ("1", "true", "yes", "on", "y", "t")


@dataclass(frozen=True, slots=True)
class Hardware:
    """The accelerator that torch would use; "other" for a build of torch that is not known here (ROCm, XPU ...)."""

    accelerator: Accelerator
    capabilities: tuple[tuple[int, int], ...] = ()
    """Compute capability of each visible CUDA device."""
    cpu_flags: frozenset[str] = frozenset()
    """The CPU's instruction sets; none are known on other systems than Linux."""

    def has_compute_capability(self, major: int, minor: int = 0) -> bool:
        """Whether every visible CUDA device has this compute capability."""
        return bool(self.capabilities) and min(self.capabilities) >= (major, minor)

    @property
    def bf16_instructions(self) -> tuple[str, ...]:
        """The CPU's instructions for bf16, which torch emulates where there are none."""
        return tuple(name for name in _FAST_BF16 if name in self.cpu_flags)

    @property
    def bf16_slowdown(self) -> int | None:
        """About how many times as long as in float32 a step on the CPU takes in bf16; None where it is not emulated.

        None where the instructions are not known, too.
        """
        if not self.cpu_flags or self.bf16_instructions:
            return None
        return _EMULATED_WITH_AVX512 if self.cpu_flags.issuperset(_ONEDNN_BF16) else _EMULATED


@functools.cache
def detect_hardware() -> Hardware:
    """Detect the devices that the installed torch would see. The CUDA driver itself applies CUDA_VISIBLE_DEVICES."""
    build = _find_torch_build()
    if build not in ("", "cpu") and not build.startswith("cu"):
        return Hardware("other")
    if sys.platform == "darwin" and platform.machine() == "arm64":
        return Hardware("mps")
    capabilities = () if build == "cpu" else _query_cuda_capabilities()
    # "flags" on x86 ("... avx512_bf16 amx_bf16 ..."), "Features" on ARM ("... bf16 ...")
    flags = read_cpu_field("flags") or read_cpu_field("Features")
    return Hardware("cuda" if capabilities else "cpu", capabilities, frozenset(flags.split()))


def select_accelerator(hardware: Hardware, train: Mapping[str, Any]) -> Accelerator:
    """Return where Trainer will put the model: `train.use_cpu`, or that of accelerate, keeps it on the CPU."""
    launched_on_cpu = os.environ.get("ACCELERATE_USE_CPU", "").lower() in TRUE
    return "cpu" if train.get("use_cpu") or launched_on_cpu else hardware.accelerator


def describe_machine() -> dict[str, Any]:
    """What of this machine decides how a run computes by default: JSON values, compared when it is resumed."""
    hardware = detect_hardware()
    return {
        "accelerator": select_accelerator(hardware, {}),
        "capabilities": [list(each) for each in hardware.capabilities],
        "bf16_instructions": sorted(hardware.bf16_instructions),
    }


def _find_torch_build() -> str:
    """Find the local part of torch's version: "cpu", "cu130", "rocm7.1" ...; "" for the build on PyPI."""
    try:
        return importlib.metadata.version("torch").partition("+")[2]
    except importlib.metadata.PackageNotFoundError:
        return ""


def _query_cuda_capabilities() -> tuple[tuple[int, int], ...]:
    """Query the compute capability of each visible device from the driver library; () without driver or device."""
    # libcuda.so.1 comes with the driver; libcuda.so is only there where the CUDA toolkit is installed.
    try:
        driver = ctypes.CDLL("nvcuda.dll" if sys.platform == "win32" else "libcuda.so.1")
    except OSError:
        return ()
    count = ctypes.c_int(0)
    if driver.cuInit(0) != 0 or driver.cuDeviceGetCount(ctypes.byref(count)) != 0:
        return ()
    return tuple(_query_capability(driver, ordinal) for ordinal in range(count.value))


def _query_capability(driver: ctypes.CDLL, ordinal: int) -> tuple[int, int]:
    device, major, minor = ctypes.c_int(), ctypes.c_int(), ctypes.c_int()
    driver.cuDeviceGet(ctypes.byref(device), ordinal)
    driver.cuDeviceGetAttribute(ctypes.byref(major), _CAPABILITY_MAJOR, device)
    driver.cuDeviceGetAttribute(ctypes.byref(minor), _CAPABILITY_MINOR, device)
    return major.value, minor.value


def read_cpu_field(name: str) -> str:
    """Read what /proc/cpuinfo says of the first processor, such as its "model name"; "" on other systems than Linux."""
    information = Path("/proc/cpuinfo")
    text = information.read_text(encoding="utf-8", errors="replace") if information.is_file() else ""
    fields = (line.partition(":") for line in text.splitlines())
    return next((value.strip() for field, _, value in fields if field.strip() == name), "")
