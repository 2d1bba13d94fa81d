from __future__ import annotations

import dataclasses
import getpass
import json
import socket
from importlib import metadata

from hf_finetune import environment
from hf_finetune.environment import diagnose, machine_facts, report_environment, versions


def test_versions_are_those_that_are_installed():
    found = versions()
    assert found["transformers"] == metadata.version("transformers")
    assert found["hf-finetune"] == metadata.version("hf-finetune")


def test_the_tested_versions_cover_the_stack():
    assert {"torch", "transformers", "datasets", "trl", "peft"} <= set(environment.tested_versions())


def test_the_facts_name_devices_and_precisions_and_nothing_private():
    facts = machine_facts()
    assert facts.devices[0].kind == "cpu"
    assert "fp32" in facts.devices[0].precisions
    written = json.dumps(report_environment())
    assert socket.gethostname() not in written
    assert getpass.getuser() not in written or getpass.getuser() in "linux x86_64 root torch"


def test_a_version_outside_the_declared_range_is_a_problem():
    facts = dataclasses.replace(machine_facts(), versions={**versions(), "transformers": "4.57.0"})
    finding = diagnose(facts, {})[0]
    assert finding.level == "problem"
    assert "transformers 4.57.0" in finding.what
    assert "pip install" in finding.remedy


def test_a_version_that_was_not_tested_is_a_warning():
    facts = dataclasses.replace(machine_facts(), versions={"torch": "2.14.0"})
    assert [finding.level for finding in diagnose(facts, {}) if "torch 2.14.0" in finding.what] == ["warn"]


def test_half_a_rendezvous_is_a_problem_and_a_whole_one_is_not():
    whole = {"RANK": "0", "WORLD_SIZE": "2", "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": "29500"}
    half = {"RANK": "0", "WORLD_SIZE": "2"}
    facts = machine_facts()
    assert "MASTER_ADDR" in diagnose(facts, half)[0].what
    assert not [finding for finding in diagnose(facts, whole) if finding.level == "problem"]


def test_a_local_build_of_a_tested_version_is_tested():
    facts = dataclasses.replace(machine_facts(), versions={"torch": f"{environment.tested_versions()['torch']}+cpu"})
    assert diagnose(facts, {})[0].what == "all versions are the tested ones" or not [
        finding for finding in diagnose(facts, {}) if finding.level != "ok"
    ]
