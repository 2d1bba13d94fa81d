"""What a run knows of the restarts that `--max-restarts` has made of it, and what its checkpoints keep of them."""

from __future__ import annotations

import json
from dataclasses import replace
from types import SimpleNamespace

import pytest

from hf_finetune.environment import Restart, name_lost, read_step
from hf_finetune.training.callbacks.restarts import RestartRecord

FIRST = Restart(1, 4, "process", 137, (2, 2), (4, 4))
SECOND = Restart(2, None, "machine", 8, (2, 1), (4, 2))


@pytest.fixture
def began(monkeypatch, tmp_path):
    """Begin a run at a step, as one that was started again so often."""

    def begin(step: int, *restarts: Restart) -> RestartRecord:
        for name, value in (name_lost(restarts) | {"HF_FINETUNE_STEP": str(tmp_path / "step")}).items():
            monkeypatch.setenv(name, value)
        record = RestartRecord()
        record.on_train_begin(None, SimpleNamespace(global_step=step), None)
        assert read_step(tmp_path / "step") == step
        return record

    return begin


def test_the_report_of_a_run_that_was_never_started_again_says_nothing_of_it(began):
    assert began(0).describe() == {}
    assert RestartRecord().describe() == {}


def test_the_step_of_a_restart_is_that_from_which_it_trains(began):
    first, second = began(6, FIRST, SECOND).describe()["restarts"]
    assert first == {
        "number": 1, "step": 4, "lost": "process", "exit_code": 137, "machines": [2, 2], "processes": [4, 4],
    }  # fmt: skip
    assert (second["step"], second["lost"], second["machines"]) == (6, "machine", [2, 1])


def test_a_checkpoint_keeps_the_restarts_of_an_earlier_command_and_none_is_there_twice(began):
    kept = json.loads(json.dumps(began(4, FIRST).save_state()))
    # The same command, on another machine, whose processes have ended otherwise.
    again = began(6, replace(FIRST, exit_code=8), SECOND)
    again.restore_state(kept)
    assert again.restarts == [FIRST, replace(SECOND, step=6)]
    # The line was typed again, and has lost a process once more.
    other = began(10, replace(FIRST, step=None))
    other.restore_state(again.save_state())
    assert [(each.number, each.step) for each in other.restarts] == [(1, 4), (2, 6), (1, 10)]


@pytest.mark.parametrize(
    "changed", [{"step": "4"}, {"lost": "hope"}, {"machines": [1]}, {"processes": [True, 2]}, {"number": None}]
)
def test_what_is_no_restart_is_refused(changed):
    with pytest.raises((ValueError, TypeError)):
        RestartRecord().restore_state([FIRST.as_dict() | changed])
