from __future__ import annotations

import ctypes
import importlib.metadata
import platform
import sys

import pytest

from hf_finetune.environment import hardware
from hf_finetune.environment.hardware import Hardware, detect_hardware, select_accelerator


class FakeDriver:
    """The four driver calls over a list of compute capabilities."""

    def __init__(self, capabilities: list[tuple[int, int]], init: int = 0) -> None:
        self.capabilities, self.init = capabilities, init

    def cuInit(self, flags):
        return self.init

    def cuDeviceGetCount(self, count):
        count._obj.value = len(self.capabilities)
        return 0

    def cuDeviceGet(self, device, ordinal):
        device._obj.value = 100 + ordinal
        return 0

    def cuDeviceGetAttribute(self, value, attribute, device):
        value._obj.value = self.capabilities[device.value - 100][{75: 0, 76: 1}[attribute]]
        return 0


@pytest.fixture
def machine(monkeypatch):
    def machine(driver, torch="2.13.0", system="linux", processor="x86_64"):
        def open_library(name):
            if driver is None:
                raise OSError(name)
            return driver

        monkeypatch.setattr(ctypes, "CDLL", open_library)
        monkeypatch.setattr(importlib.metadata, "version", lambda package: torch)
        monkeypatch.setattr(sys, "platform", system)
        monkeypatch.setattr(platform, "machine", lambda: processor)
        return detect_hardware.__wrapped__()

    return machine


def test_no_driver_and_no_device_are_a_cpu(machine):
    assert machine(None).accelerator == "cpu"
    assert machine(FakeDriver([])).accelerator == "cpu"
    assert machine(FakeDriver([(9, 0)], init=100)).accelerator == "cpu"


def test_every_visible_device_has_its_capability(machine):
    found = machine(FakeDriver([(9, 0), (7, 5)]))
    assert (found.accelerator, found.capabilities) == ("cuda", ((9, 0), (7, 5)))
    assert found.has_compute_capability(7, 5)
    assert not found.has_compute_capability(8)


def test_a_torch_without_cuda_does_not_see_the_gpu(machine):
    assert machine(FakeDriver([(9, 0)]), torch="2.13.0+cpu").accelerator == "cpu"
    assert machine(FakeDriver([(9, 0)]), torch="2.13.0+cu130").accelerator == "cuda"
    assert machine(None, torch="2.13.0+rocm7.1").accelerator == "other"


def test_an_apple_processor_is_mps(machine):
    assert machine(None, system="darwin", processor="arm64").accelerator == "mps"
    assert machine(None, system="darwin", processor="x86_64").accelerator == "cpu"


def test_use_cpu_and_the_launcher_keep_a_run_off_the_gpu(monkeypatch):
    gpu = Hardware("cuda", ((9, 0),))
    monkeypatch.delenv("ACCELERATE_USE_CPU", raising=False)
    assert select_accelerator(gpu, {}) == "cuda"
    assert select_accelerator(gpu, {"use_cpu": True}) == "cpu"
    monkeypatch.setenv("ACCELERATE_USE_CPU", "True")
    assert select_accelerator(gpu, {}) == "cpu"


@pytest.mark.parametrize(
    ("flags", "fast"), [({"avx2"}, False), ({"avx512_bf16"}, True), ({"amx_bf16"}, True), ({"bf16"}, True)]
)
def test_fast_bf16_is_known_by_the_processors_flags(flags, fast):
    assert bool(Hardware("cpu", cpu_flags=frozenset(flags)).bf16_instructions) is fast


def test_this_machine_is_seen_as_torch_sees_it():
    import torch

    seen = detect_hardware()
    if torch.cuda.is_available():
        assert seen.capabilities == tuple(torch.cuda.get_device_capability(n) for n in range(torch.cuda.device_count()))
    else:
        assert seen.capabilities == ()
    if sys.platform == "linux":
        assert hardware.read_cpu_field("flags") or hardware.read_cpu_field("Features")
