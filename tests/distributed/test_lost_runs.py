"""One of two processes is killed, or its machine is cut off: all end soon with one line, and the run goes on."""

from __future__ import annotations

import random

import pytest
from distributed.lost_runs import Lab, Trials
from distributed.two_machines import NoNamespaces, connect_two_machines

SILENCE = 6
SECONDS_MORE = 20.0
"""Beside those of silence: five for the first rank to speak, and what a busy machine takes."""


@pytest.fixture(scope="module")
def trials(preloaded, tmp_path_factory):
    lab = Lab(tmp_path_factory.mktemp("lost"), preloaded)
    lab.prepare()
    return Trials(lab, random.Random(0))


def test_a_run_of_which_one_process_is_killed_ends_with_one_line_and_goes_on(trials):
    trials.by = "train"
    trial = trials.kill("fsdp2", 1)
    assert trial.find_faults() == [], trial.said
    assert trial.causes[0].startswith("process 1 was ended by SIGKILL")


def test_a_run_that_loses_a_process_goes_on_by_itself_to_the_weights_of_one_that_has_lost_none(trials):
    again = trials.kill_and_wait("fsdp2", 1)
    assert again.find_faults() == [], again.said


def test_where_the_first_machine_is_gone_the_second_goes_on_alone(trials):
    try:
        with connect_two_machines() as trials.lab.machines:
            again = trials.lose_first("ddp", SILENCE=str(SILENCE), MEET="4")
    except NoNamespaces as refused:
        pytest.skip(f"no network namespaces: {refused}")
    assert again.find_faults() == [], again.said
    assert "(10.77.0.1, port " in again.said[0]  # where it was looked for


def test_both_machines_end_soon_after_the_cable_between_them_is_cut_and_the_run_goes_on(trials):
    trials.by = "accelerate"
    try:
        with connect_two_machines() as trials.lab.machines:
            trial = trials.cut("ddp", 1, SILENCE=str(SILENCE))
    except NoNamespaces as refused:
        pytest.skip(f"no network namespaces: {refused}")
    assert trial.find_faults() == [], trial.said
    assert trial.seconds < SILENCE + SECONDS_MORE
    for line, address in zip(trial.causes, ("10.77.0.2", "10.77.0.1"), strict=True):
        assert line.startswith(f"the machine at {address} cannot be reached (")
