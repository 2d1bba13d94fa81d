"""A run that is typed again: said to be finished, or where it goes on; nothing is written before that is known."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from hf_finetune.errors import ConfigError, RunFinished
from hf_finetune.reporting import claim_run_folder, find_resumed

RESUME = {"resume_from_checkpoint": True}


def checkpoint(folder: Path, step: int, *, whole: bool = True) -> Path:
    place = folder / f"checkpoint-{step}"
    place.mkdir(parents=True)
    if whole:
        (place / "trainer_state.json").write_text(json.dumps({"global_step": step, "max_steps": 60}))
    return place


def finished(folder: Path, **train: float) -> None:
    report = {"status": "done", "settings": {"train": train}, "train": {"steps": 40, "max_steps": 60}}
    folder.mkdir(exist_ok=True)
    (folder / "report.json").write_text(json.dumps(report))


def contents(folder: Path) -> dict[str, bytes]:
    return {str(path): path.read_bytes() for path in folder.rglob("*") if path.is_file()}


def test_a_run_begins_at_its_first_step_unless_it_is_to_be_resumed(tmp_path):
    checkpoint(tmp_path, 5)
    for resume in (None, False):
        assert find_resumed(str(tmp_path), {"resume_from_checkpoint": resume}) is None
    assert find_resumed(str(tmp_path), {}) is None


def test_the_newest_whole_checkpoint_is_gone_on_from_by_number_and_a_torn_one_is_said(tmp_path, caplog):
    for step in (5, 20, 100):
        checkpoint(tmp_path, step)
    assert find_resumed(str(tmp_path), RESUME) == str(tmp_path / "checkpoint-100")
    assert caplog.text == ""
    checkpoint(tmp_path, 200, whole=False)
    assert find_resumed(str(tmp_path), RESUME) == str(tmp_path / "checkpoint-100")
    assert "checkpoint-200 has no trainer_state.json" in caplog.text


@pytest.mark.parametrize(
    ("steps", "resume", "said"),
    [
        ((), True, r"holds no checkpoint to go on from; leave train.resume_from_checkpoint out to begin"),
        ((), "{}/checkpoint-7", r"no such checkpoint: .*checkpoint-7; leave train.resume_from_checkpoint out"),
        ((5, 70), "{}/checkpoint-7", r"no such checkpoint: .*checkpoint-7; did you mean checkpoint-70\?"),
        (
            (-9,),
            True,
            r"checkpoint-9 has no trainer_state.json: the run ended while it was written; name another output_dir",
        ),
        ((5, -9), "{}/checkpoint-9", r"checkpoint-9 has no trainer_state.json.*; name an earlier one"),
    ],
)
def test_a_run_without_the_checkpoint_is_one_message(tmp_path, steps, resume, said):
    for step in steps:
        checkpoint(tmp_path, abs(step), whole=step > 0)
    before = contents(tmp_path)
    with pytest.raises(ConfigError, match=said) as refused:
        find_resumed(
            str(tmp_path), {"resume_from_checkpoint": resume.format(tmp_path) if resume is not True else resume}
        )
    assert (refused.value.exit_code, refused.value.problems[0].key) == (2, "train.resume_from_checkpoint")
    assert contents(tmp_path) == before


# What the run was given, what is typed now, and whether that is more than it has done.
LENGTHS = [
    ({"max_steps": 60}, {"max_steps": 60}, False),
    ({"max_steps": 60}, {"max_steps": 30}, False),
    ({"max_steps": 60}, {"max_steps": 61}, True),
    ({}, {}, False),
    ({"num_train_epochs": 2}, {"num_train_epochs": 2.0}, False),
    ({"num_train_epochs": 2}, {}, True),  # 3, by default
    ({}, {"num_train_epochs": 1}, False),
    ({"max_steps": 60}, {"num_train_epochs": 1}, True),  # nobody can tell before the rows are counted
]


@pytest.mark.parametrize(("given", "typed", "more"), LENGTHS)
def test_a_finished_run_is_finished_unless_more_is_asked_for(tmp_path, given, typed, more):
    finished(tmp_path, **given)
    checkpoint(tmp_path, 40)
    if more:
        assert find_resumed(str(tmp_path), RESUME | typed) == str(tmp_path / "checkpoint-40")
        return
    for resume in (True, str(tmp_path / "checkpoint-40")):
        with pytest.raises(RunFinished, match=r"holds a finished run, 40 steps: its report is .*report\.html") as told:
            find_resumed(str(tmp_path), {"resume_from_checkpoint": resume} | typed)
        assert told.value.exit_code == 0


def test_a_finished_run_that_is_begun_again_is_refused_with_the_place_of_its_report(tmp_path):
    finished(tmp_path)
    with pytest.raises(ConfigError, match=r"holds a finished run, 40 steps: its report is .*report\.html") as refused:
        claim_run_folder(str(tmp_path), resume=None)
    assert (refused.value.exit_code, refused.value.problems[0].key) == (2, "output_dir")


def test_a_finished_run_without_a_checkpoint_is_finished_and_cannot_do_more(tmp_path):
    finished(tmp_path, max_steps=60)
    with pytest.raises(RunFinished):
        find_resumed(str(tmp_path), RESUME | {"max_steps": 60})
    with pytest.raises(ConfigError, match="holds no checkpoint to go on from"):
        find_resumed(str(tmp_path), RESUME | {"max_steps": 90})
