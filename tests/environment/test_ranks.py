"""Which of several processes speaks: as torch's launchers, MPI and Slurm number them."""

from __future__ import annotations

import os

import pytest

from hf_finetune import errors
from hf_finetune.ranks import RANKS, is_first_rank
from hf_finetune.release.hub import _is_main_process


@pytest.mark.parametrize("name", RANKS)
@pytest.mark.parametrize(("number", "first"), [("0", True), ("1", False), ("17", False), ("", True), ("n/a", True)])
def test_each_launchers_number_is_read(name, number, first):
    assert is_first_rank({name: number}) is first


def test_without_a_launcher_a_process_is_the_only_one():
    assert is_first_rank({})


def test_the_launcher_that_is_nearest_counts():
    # `srun` has started one `accelerate launch` on each of two nodes, each of which has started two processes.
    assert is_first_rank({"SLURM_PROCID": "1", "RANK": "0"})
    assert not is_first_rank({"SLURM_PROCID": "0", "RANK": "2"})


@pytest.mark.parametrize("variable", RANKS)
@pytest.mark.parametrize(("number", "waits"), [("0", []), ("1", [errors.SECONDS_BEHIND_THE_FIRST])])
def test_of_processes_that_fail_alike_the_others_wait_for_the_first(variable, number, waits, monkeypatch, capsys):
    for name in RANKS:
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv(variable, number)
    waited: list[float] = []
    monkeypatch.setattr(errors.time, "sleep", waited.append)
    with pytest.raises(SystemExit), errors.user_errors():
        raise errors.ConfigError(errors.Problem("it is wrong", code="HF603"))
    assert waited == waits
    assert capsys.readouterr().err == "it is wrong [HF603]\n"


@pytest.mark.parametrize("variable", RANKS)
def test_the_first_alone_pushes(variable, monkeypatch):
    for name in RANKS:
        monkeypatch.delenv(name, raising=False)
    assert _is_main_process()
    monkeypatch.setitem(os.environ, variable, "1")
    assert not _is_main_process()
