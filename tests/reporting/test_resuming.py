"""A run that is typed again: said to be finished, or where it goes on; nothing is written before that is known."""

from __future__ import annotations

import json
import os
from pathlib import Path

import pytest
import torch
from safetensors.torch import save, save_file
from saved_records import put_records

from hf_finetune.errors import ConfigError
from hf_finetune.folders.checkpoints import SEAL, seal
from hf_finetune.reporting import (
    check_resumable,
    claim_run_folder,
    describe_kept,
    find_finished,
    find_resumed,
    open_manifest,
)

WEIGHTS = save({"w": torch.zeros(1)})
MANIFEST = {"data": {}, "versions": {}, "launch": "x"}


def checkpoint(folder: Path, step: int, run_id: str | None = "one", *, state: bytes = WEIGHTS) -> Path:
    place = folder / f"checkpoint-{step}"
    place.mkdir(parents=True)
    put_records(place, step)
    (place / "model.safetensors").write_bytes(state)
    seal(place, {"step": step, "run_id": run_id})
    return place


def finished(folder: Path, **train: float) -> None:
    report = {"status": "done", "settings": {"train": train}, "train": {"steps": 40, "max_steps": 60}}
    folder.mkdir(exist_ok=True)
    (folder / "report.json").write_text(json.dumps(report))


def opened(folder: Path, **more: str) -> None:
    (folder / "manifest.json").write_text(json.dumps(MANIFEST | more))


def contents(folder: Path) -> dict[str, bytes]:
    return {str(path): path.read_bytes() for path in folder.rglob("*") if path.is_file()}


def resumed(folder: Path, resume: str | bool = "auto") -> tuple[str | None, str]:
    found = find_resumed(str(folder), resume)
    return found.checkpoint and Path(found.checkpoint).name, found.said or ""


def test_a_folder_without_a_checkpoint_is_one_in_which_a_run_begins_and_that_is_said_of_one_that_failed(tmp_path):
    assert resumed(tmp_path / "none") == (None, "")
    assert resumed(tmp_path) == (None, "")
    opened(tmp_path)
    assert resumed(tmp_path) == (None, f"{tmp_path} holds a run that had saved no checkpoint: it begins anew")


def test_false_begins_whatever_is_there(tmp_path):
    checkpoint(tmp_path, 5)
    assert resumed(tmp_path, False) == (None, "")


def test_the_newest_verified_checkpoint_is_gone_on_from_by_number_and_others_are_said(tmp_path):
    for step in (5, 20, 100):
        checkpoint(tmp_path, step)
    opened(tmp_path, run_id="one")
    for resume in ("auto", True):
        assert resumed(tmp_path, resume) == (
            "checkpoint-100",
            f"goes on from {tmp_path}/checkpoint-100, step 100 of 60",
        )
    (checkpoint(tmp_path, 200) / SEAL).unlink()
    (checkpoint(tmp_path, 150) / "model.safetensors").write_bytes(WEIGHTS[:-1] + b"\1")
    (tmp_path / "checkpoint-300").mkdir()
    (tmp_path / "checkpoint-300" / "training_args.bin").write_bytes(b"")
    checkpoint(tmp_path, 400, "another")
    name, said = resumed(tmp_path)
    assert name == "checkpoint-100"
    assert said.split("; ")[1:] == [
        "checkpoint-400 is passed over (is of another run: another, and not one)",
        "checkpoint-300 is passed over (has no checkpoint.json: an older version has written it, or another program)",
        "checkpoint-200 is passed over (has no checkpoint.json: its writing, or its removal, was cut short)",
        "checkpoint-150 is passed over (model.safetensors has changed since it was saved)",
    ]


def test_checkpoints_that_were_copied_alone_are_gone_on_from_unless_they_are_of_two_runs(tmp_path):
    checkpoint(tmp_path, 5)
    checkpoint(tmp_path, 10)
    name, said = resumed(tmp_path)
    assert name == "checkpoint-10"
    compared = "data, model and settings are compared with nothing"
    assert said.endswith(f"there is no manifest.json, which is written anew: {compared}")
    checkpoint(tmp_path, 20, "another")
    with pytest.raises(ConfigError, match=r"checkpoints of 2 runs \(checkpoint-10, checkpoint-20\), and no manifest"):
        resumed(tmp_path)
    for named in (str(tmp_path / "checkpoint-5"), "checkpoint-5"):
        assert resumed(tmp_path, named)[0] == "checkpoint-5"


@pytest.mark.parametrize("manifest", [None, "[]", '{"data": {', ""])
def test_a_run_whose_manifest_is_torn_or_missing_is_gone_on_from_its_checkpoints(tmp_path, manifest):
    checkpoint(tmp_path, 5)
    for name in ("log.jsonl", "run.yaml", "row_prints.npz", "config.json"):
        (tmp_path / name).write_text("")
    (tmp_path / "checkpoint-9.left1").mkdir()
    if manifest is not None:
        (tmp_path / "manifest.json").write_text(manifest)
    claim_run_folder(str(tmp_path), resume="auto")
    name, said = resumed(tmp_path)
    assert name == "checkpoint-5"
    lost = "there is no manifest.json, which" if manifest is None else "manifest.json is torn, and"
    assert said.endswith(f"{lost} is written anew: data and model are compared with nothing")
    open_manifest(str(tmp_path), MANIFEST, "recipe: sft\n", resume=name)
    assert json.loads((tmp_path / "manifest.json").read_text()) == MANIFEST

    (tmp_path / "manifest.json").write_text("[]")
    (tmp_path / "thesis.txt").write_text("mine")
    words = r"holds thesis.txt, .* a run's checkpoints, whose manifest.json is torn; put .* back, or move thesis"
    with pytest.raises(ConfigError, match=words):
        claim_run_folder(str(tmp_path), resume="auto")


def test_a_torn_manifest_without_checkpoints_is_named_and_a_model_of_another_tool_is_not_taken(tmp_path):
    (tmp_path / "log.jsonl").touch()
    (tmp_path / "manifest.json").write_text("[]")
    with pytest.raises(ConfigError, match=r"no run folder of hf-finetune: manifest.json is torn; put it back"):
        claim_run_folder(str(tmp_path), resume="auto")
    checkpoint(tmp_path / "model", 5)
    (tmp_path / "model" / "model.safetensors").touch()
    with pytest.raises(ConfigError, match=r"holds model.safetensors, .* whose manifest.json is missing"):
        claim_run_folder(str(tmp_path / "model"), resume="auto")


def test_a_folder_of_which_no_checkpoint_can_be_gone_on_from_is_left_as_it_is(tmp_path):
    opened(tmp_path, run_id="one")
    checkpoint(tmp_path, 5, "another")
    (checkpoint(tmp_path, 9) / "model.safetensors").unlink()
    before = contents(tmp_path)
    for resume in ("auto", True):
        with pytest.raises(ConfigError) as refused:
            resumed(tmp_path, resume)
        lines = str(refused.value).splitlines()
        assert "checkpoint-9 model.safetensors is missing; remove it, or name another output_dir" in lines[0]
        assert "checkpoint-5 is of another run: another, and not one; " in lines[1]
    with pytest.raises(ConfigError, match="checkpoint-5 is of another run"):
        resumed(tmp_path, str(tmp_path / "checkpoint-5"))
    with pytest.raises(ConfigError, match=r"checkpoint-9 model.safetensors is missing; name another, or leave it out"):
        resumed(tmp_path, str(tmp_path / "checkpoint-9"))
    assert contents(tmp_path) == before


@pytest.mark.parametrize(
    ("steps", "resume", "said"),
    [
        ((5, 70), "checkpoint-7", r"no such checkpoint: checkpoint-7; name one of .*: checkpoint-5, checkpoint-70"),
        ((), True, r"holds no checkpoint to go on from; leave train.resume_from_checkpoint out to begin"),
        ((), "{}/checkpoint-7", r"no such checkpoint: .*checkpoint-7; leave train.resume_from_checkpoint out"),
        (
            (5, 70),
            "{}/checkpoint-7",
            r"no such checkpoint: .*checkpoint-7; name one of .*: checkpoint-5, checkpoint-70",
        ),
    ],
)
def test_a_run_without_the_checkpoint_is_one_message_before_anything_is_read(tmp_path, steps, resume, said):
    for step in steps:
        checkpoint(tmp_path, step)
    asked = resume.format(tmp_path) if isinstance(resume, str) else resume
    with pytest.raises(ConfigError, match=said) as refused:
        check_resumable(str(tmp_path), asked)
    assert (refused.value.exit_code, refused.value.problems[0].key) == (2, "train.resume_from_checkpoint")


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
    assert (find_finished(str(tmp_path), typed) is None) == more


@pytest.mark.parametrize(("harm", "said"), [("unlink", "missing"), ("cut", "cut short")])
def test_a_finished_run_whose_weights_are_lost_is_not_said_to_be_finished(tmp_path, harm, said):
    finished(tmp_path)
    weights = tmp_path / "model.safetensors"
    save_file({"w": torch.ones(100)}, weights)
    (tmp_path / "manifest.json").write_text(json.dumps({**MANIFEST, "files": {"config.json": "", weights.name: ""}}))
    assert find_finished(str(tmp_path), {}) is not None
    if harm == "unlink":
        weights.unlink()
    else:
        os.truncate(weights, weights.stat().st_size - 1)
    assert find_finished(str(tmp_path), {}) is None
    with pytest.raises(ConfigError, match=f"finished run whose model.safetensors is {said}, and no checkpoint"):
        check_resumable(str(tmp_path), "auto")
    checkpoint(tmp_path, 40)
    name, told = resumed(tmp_path)
    assert name == "checkpoint-40"
    assert told.endswith(f"the run had come to its end, and model.safetensors is {said}: the model is written again")


def test_a_finished_run_that_is_begun_again_is_refused_with_the_place_of_its_report(tmp_path):
    finished(tmp_path)
    with pytest.raises(ConfigError, match=r"holds a finished run, 40 steps: its report is .*report\.html") as refused:
        claim_run_folder(str(tmp_path), resume=False)
    assert (refused.value.exit_code, refused.value.problems[0].key) == (2, "output_dir")


def test_a_finished_run_without_a_checkpoint_cannot_do_more(tmp_path):
    finished(tmp_path, max_steps=60)
    with pytest.raises(ConfigError, match="holds no checkpoint to go on from"):
        check_resumable(str(tmp_path), True)
    with pytest.raises(ConfigError, match="holds a finished run, 40 steps"):
        check_resumable(str(tmp_path), "auto")


def test_of_a_complete_run_that_is_to_be_pushed_the_command_that_pushes_is_said(tmp_path):
    opened(tmp_path)
    finished(tmp_path)
    typed = ["hf-finetune", "train", "x.yaml"]
    assert describe_kept(str(tmp_path), typed).endswith("its report is " + str(tmp_path / "report.html"))
    assert describe_kept(str(tmp_path), typed, pushes=True).endswith("; push it with: hf-finetune train x.yaml")
    (tmp_path / "pushed.json").write_text("{}")
    assert describe_kept(str(tmp_path), typed, pushes=True) == describe_kept(str(tmp_path), typed)


def test_the_command_that_goes_on_is_the_same_one_unless_the_run_file_says_otherwise(tmp_path):
    checkpoint(tmp_path, 5)
    typed = ["hf-finetune", "train", "x.yaml"]
    named = "train.resume_from_checkpoint=run/checkpoint-1"
    assert describe_kept(str(tmp_path), typed).endswith("go on with: hf-finetune train x.yaml")
    assert describe_kept(str(tmp_path), [*typed, named], named).endswith("go on with: hf-finetune train x.yaml")
    for resume in (False, named):
        kept = describe_kept(str(tmp_path), typed, resume)
        assert kept.endswith("go on with: hf-finetune train x.yaml train.resume_from_checkpoint=auto")
