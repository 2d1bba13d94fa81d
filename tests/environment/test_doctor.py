from __future__ import annotations

import dataclasses
import json
import os
import re
import socket
import subprocess
import sys
from importlib import metadata

import psutil
import pytest

from hf_finetune.environment import doctor
from hf_finetune.environment import facts as facts_module
from hf_finetune.environment.doctor import check_versions, diagnose_machine
from hf_finetune.environment.facts import Device, collect_machine_info, get_installed_versions, report_environment
from hf_finetune.environment.hardware import Hardware
from hf_finetune.errors import MachineError

WHOLE = {"RANK": "0", "WORLD_SIZE": "2", "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": "29500"}
GPU = Device("cuda", "H200", "9.0", 139.0, ("fp32", "bf16", "fp16"))


@pytest.fixture(scope="module")
def facts():
    """This machine, with no driver and no accelerate default, whatever it has."""
    return dataclasses.replace(collect_machine_info(), gpu_driver=False, accelerate_default=None, disk_free_gib=100.0)


def levels(findings, words):
    return [finding.level for finding in findings if words in finding.what]


def test_versions_are_those_that_are_installed():
    found = get_installed_versions()
    assert found["transformers"] == metadata.version("transformers")
    assert found["hf-finetune"] == metadata.version("hf-finetune")


def test_the_tested_versions_are_the_pins_of_the_checkout(project_root):
    tested = doctor.read_tested_versions()
    assert {"torch", "transformers", "datasets", "trl", "peft"} <= set(tested)
    assert f"torch=={tested['torch']}\n" in (project_root / "constraints.txt").read_text()


def test_the_first_device_is_the_cpu_with_what_this_process_may_use(facts):
    cpu = facts.devices[0]
    assert cpu.kind == "cpu"
    assert "fp32" in cpu.precisions
    assert 0 < cpu.memory_gib <= psutil.virtual_memory().total / 2**30
    assert 1 <= facts.cores <= os.cpu_count()


@pytest.mark.parametrize(("flag", "fast"), [("avx512_bf16", True), ("amx_bf16", True), ("avx512f", False)])
def test_a_cpu_has_bf16_where_it_computes_it_fast(flag, fast, monkeypatch):
    hardware = Hardware("cpu", cpu_flags=frozenset({flag, "sse"}))
    monkeypatch.setattr(facts_module, "detect_hardware", lambda: hardware)
    cpu = collect_machine_info().devices[0]
    assert ("bf16" in cpu.precisions) is fast
    assert cpu.capability == (flag if fast else "")


def test_quantized_weights_are_promised_only_where_their_package_is_installed(monkeypatch):
    assert "4-bit" in collect_machine_info().devices[0].precisions
    monkeypatch.setattr(facts_module, "get_installed_versions", lambda: {"torch": "2.13.0"})
    assert "4-bit" not in collect_machine_info().devices[0].precisions


def test_the_report_names_no_host_and_no_path():
    written = json.dumps(report_environment())
    assert socket.gethostname() not in written
    assert not re.search(r'"[^"]*/[^"]*"', written), "nothing with a slash in it"


def test_a_version_outside_the_declared_range_is_a_problem_with_the_command_that_mends_it(facts):
    finding = diagnose_machine(
        dataclasses.replace(facts, versions={**get_installed_versions(), "transformers": "4.57.0"}), {}
    )[0]
    assert finding.level == "problem"
    assert "transformers 4.57.0" in finding.what
    assert finding.remedy.startswith("pip install 'transformers")


def test_a_range_of_an_extra_is_a_warning_and_a_nightly_build_is_within_its_range(facts):
    old = dataclasses.replace(
        facts, versions={**get_installed_versions(), "bitsandbytes": "0.40.0", "torch": "2.14.0.dev20261101"}
    )
    findings = diagnose_machine(old, {})
    assert levels(findings, "bitsandbytes 0.40.0 is installed") == ["warn"]
    assert levels(findings, "torch 2.14.0.dev20261101 is installed") == []


def test_versions_are_checked_before_anything_heavy_is_imported(monkeypatch, environment_of_a_user):
    code = "from hf_finetune.environment.doctor import check_versions; check_versions()"
    code = f"import sys; {code}; print('torch' in sys.modules)"
    done = subprocess.run([sys.executable, "-c", code], env=environment_of_a_user, capture_output=True, text=True)
    assert done.stdout.strip() == "False", done.stderr
    monkeypatch.setattr(
        doctor, "get_installed_versions", lambda: {"torch": "1.13.0", "accelerate": "0.20.0", "bitsandbytes": "0.1"}
    )
    with pytest.raises(MachineError) as refused:
        check_versions()
    assert [str(problem).split()[0] for problem in refused.value.problems] == ["accelerate", "torch"]


def test_a_version_that_was_not_tested_is_a_warning(facts):
    findings = diagnose_machine(dataclasses.replace(facts, versions={"torch": "2.14.0"}), {})
    assert levels(findings, "torch 2.14.0") == ["warn"]


def test_a_local_build_of_a_tested_version_is_tested(facts):
    local = {"torch": f"{doctor.read_tested_versions()['torch']}+cpu"}
    assert levels(
        diagnose_machine(dataclasses.replace(facts, versions=local), {}), "all versions are the tested ones"
    ) == ["ok"]


@pytest.mark.parametrize(
    ("variables", "level"),
    [
        ({}, []),
        ({"RANK": "0"}, []),
        ({"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": "29500"}, []),
        ({"WORLD_SIZE": "1"}, []),
        ({"RANK": "0", "WORLD_SIZE": "2"}, ["problem"]),
        ({"LOCAL_RANK": "0"}, ["problem"]),
        (WHOLE, ["warn"]),
        ({**WHOLE, "WORLD_SIZE": "1", "LOCAL_RANK": "0"}, []),
    ],
)
def test_what_a_launcher_left_behind_is_told_where_a_run_would_fail_or_wait(facts, variables, level):
    findings = [finding for finding in diagnose_machine(facts, variables) if finding.remedy.startswith("unset")]
    assert [finding.level for finding in findings] == level


@pytest.mark.parametrize("variables", [{"LOCAL_RANK": "0"}, {"WORLD_SIZE": "2"}, {"RANK": "0"}])
def test_accelerate_fails_where_the_doctor_says_so_and_only_there(facts, variables, environment_of_a_user):
    code = "from accelerate import PartialState; PartialState(cpu=True)"
    done = subprocess.run([sys.executable, "-c", code], env=environment_of_a_user | variables, capture_output=True)
    told = any(finding.level == "problem" for finding in diagnose_machine(facts, variables))
    assert told is (done.returncode != 0)


def test_a_gpu_that_torch_does_not_see_is_told_with_its_reason(facts):
    driver = dataclasses.replace(facts, devices=facts.devices[:1], gpu_driver=True)
    assert levels(diagnose_machine(driver, {}), "sees no GPU") == ["warn"]
    assert levels(diagnose_machine(driver, {"CUDA_VISIBLE_DEVICES": ""}), "hides every GPU") == ["warn"]
    seen = dataclasses.replace(driver, devices=(*driver.devices, GPU))
    assert levels(diagnose_machine(seen, {"CUDA_VISIBLE_DEVICES": "0"}), "GPU") == []


@pytest.mark.parametrize(
    ("settings", "told"),
    [
        (None, False),
        ({}, False),
        ({"distributed_type": "NO", "num_machines": 1, "num_processes": 1, "use_cpu": True}, False),
        ({"distributed_type": "MULTI_GPU", "num_machines": 1, "num_processes": 1}, False),
        ({"distributed_type": "MULTI_GPU", "num_machines": 1, "num_processes": 2}, True),
        ({"distributed_type": "MULTI_CPU", "num_machines": 1, "num_processes": 8, "use_cpu": True}, False),
        ({"distributed_type": "MULTI_CPU", "num_machines": 4, "num_processes": 4, "use_cpu": True}, True),
    ],
)
def test_an_accelerate_default_of_another_machine_is_a_warning(facts, settings, told):
    here = dataclasses.replace(facts, devices=(facts.devices[0], GPU), accelerate_default=settings)
    assert levels(diagnose_machine(here, {}), "accelerate's default configuration") == (["warn"] if told else [])


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("num_processes: 8\ndistributed_type: FSDP\nmain_process_ip: 10.0.0.1\n", {"num_processes": 8}),
        ("a: [", {}),
        ("- a\n", {}),
    ],
)
def test_the_accelerate_default_is_read_less_its_addresses(text, expected, tmp_path, monkeypatch):
    from accelerate.commands.config import config_args

    (tmp_path / "default_config.yaml").write_text(text)
    monkeypatch.setattr(config_args, "default_config_file", str(tmp_path / "default_config.yaml"))
    found = collect_machine_info().accelerate_default
    assert expected.items() <= found.items()
    assert "main_process_ip" not in found
    assert "accelerate_default" not in report_environment()


def test_little_space_is_a_warning_and_problems_come_first(facts):
    full = dataclasses.replace(facts, disk_free_gib=0.5)
    found = [finding.level for finding in diagnose_machine(full, {"LOCAL_RANK": "0"})]
    assert found[:2] == ["problem", "warn"]
    assert found == sorted(found, key=["problem", "warn", "ok"].index)


@pytest.mark.gpu
def test_a_gpu_is_named_with_its_capability_and_memory(facts):
    torch = pytest.importorskip("torch")
    if not torch.cuda.is_available():
        pytest.skip("no CUDA device")
    gpu = facts.devices[1]
    assert gpu.kind == "cuda"
    assert gpu.capability == ".".join(map(str, torch.cuda.get_device_capability(0)))
    assert gpu.memory_gib > 1


@pytest.mark.parametrize(
    ("versions", "words"),
    [
        ({"peft": "0.17.1", "transformers": "5.2.0"}, ["HybridCache", "fused experts"]),
        ({"peft": "0.18.1", "transformers": "5.2.0"}, ["fused experts"]),
        ({"peft": "0.17.1", "transformers": "4.57.0"}, []),
        ({"peft": "0.21.2", "transformers": "5.23.0"}, []),
        ({"accelerate": "0.21.0", "transformers": "4.44.2"}, ["is_mlu_available"]),
        ({"accelerate": "0.21.0"}, []),
    ],
)
def test_versions_that_break_each_other_are_named_with_the_thread(facts, versions, words):
    found = diagnose_machine(dataclasses.replace(facts, versions=versions), {})
    named = [finding for finding in found if "does not go with" in finding.what]
    assert [finding.level for finding in named] == ["problem"] * len(words)
    for finding, word in zip(named, words, strict=True):
        assert word in finding.what
        assert "https://github.com/" in finding.what
        assert finding.remedy.startswith("pip install '")


def test_the_installed_versions_are_no_such_pair(facts):
    assert not [finding for finding in diagnose_machine(facts, {}) if "does not go with" in finding.what]
