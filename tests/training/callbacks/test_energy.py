from __future__ import annotations

from pathlib import Path

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from hf_finetune.training.callbacks.energy import EnergyCounter, EnergyMeter, find_gpu_counters, find_rapl_counters


def zone(folder: Path, name: str, kind: str, microjoules: int, span: int = 1_000_000_000) -> Path:
    made = folder / name
    made.mkdir()
    (made / "name").write_text(f"{kind}\n")
    (made / "energy_uj").write_text(f"{microjoules}\n")
    (made / "max_energy_range_uj").write_text(f"{span}\n")
    return made


def test_the_packages_of_a_machine_are_added_up_and_their_parts_are_not(tmp_path):
    packages = [zone(tmp_path, f"intel-rapl:{n}", f"package-{n}", 5_000_000) for n in (0, 1)]
    zone(tmp_path, "intel-rapl:0:0", "core", 1)
    zone(tmp_path, "intel-rapl:2", "psys", 1)
    meter = EnergyMeter(find_rapl_counters(tmp_path))
    meter.read()
    for package in packages:
        (package / "energy_uj").write_text("7205000000")
    meter.read()
    said = meter.as_dict()
    assert said["watt_hours"] == pytest.approx(2 * 7200 / 3600)
    assert said["source"] == "counters of the whole machine: CPU packages (RAPL) of 2"


def test_a_machine_without_counters_says_nothing(tmp_path):
    assert find_rapl_counters(tmp_path / "none") == []
    zone(tmp_path, "intel-rapl:0", "package-0", 0)
    (tmp_path / "intel-rapl:0" / "energy_uj").unlink()
    assert find_rapl_counters(tmp_path) == []
    meter = EnergyMeter([])
    meter.read()
    meter.read()
    assert meter.as_dict() is None


def test_a_counter_that_fails_on_the_way_leaves_no_figure(tmp_path):
    package = zone(tmp_path, "intel-rapl:0", "package-0", 0)
    meter = EnergyMeter(find_rapl_counters(tmp_path))
    meter.read()
    (package / "energy_uj").unlink()
    meter.read()
    assert meter.as_dict() is None


@given(st.lists(st.floats(min_value=0, max_value=99), max_size=20), st.floats(min_value=0, max_value=99))
def test_a_counter_that_begins_anew_loses_nothing(steps, start):
    total = [start]
    meter = EnergyMeter([EnergyCounter("x", lambda: total[0] % 100.0, range_joules=100.0)])
    meter.read()
    for step in steps:
        total[0] += step
        meter.read()
    assert meter.joules == pytest.approx(sum(steps), abs=1e-6)


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a GPU")
def test_a_gpu_counts_the_energy_that_work_takes():
    meter = EnergyMeter(find_gpu_counters())
    meter.read()
    values = torch.randn(4096, 4096, device="cuda")
    for _ in range(200):
        values = (values @ values).clamp(-1, 1)
    torch.cuda.synchronize()
    meter.read()
    assert 1.0 < meter.joules < 10_000.0
    assert "GPUs (NVML)" in meter.as_dict()["source"]
