"""A run that is typed again with other processes: one of them decides, and all of them go on or are refused alike."""

from __future__ import annotations

import json
import logging
from pathlib import Path

import pytest
from saved_records import put_records

from hf_finetune.config import Change, Run, build_run
from hf_finetune.environment import name_restart
from hf_finetune.errors import ConfigError, FinetuneError, RunFinished
from hf_finetune.folders.checkpoints import seal
from hf_finetune.reporting import open_manifest
from hf_finetune.typed_again import (
    check_not_moved,
    check_processes,
    check_typed_again,
    choose_checkpoint,
    keep_rows_of_a_step,
    say_changes,
)

MANIFEST = {"data": {"files": []}, "versions": {"torch": "2.12.0"}, "launch": "x", "run_id": "one", "processes": 2}


@pytest.fixture
def run(tmp_path: Path) -> Run:
    """A run of two processes, killed after it had saved a checkpoint at step 4."""
    (tmp_path / "rows.jsonl").touch()
    model = {"scratch": {"preset": "nano"}, "tokenizer": {"train": {"kind": "char"}}}
    data = {"train": str(tmp_path / "rows.jsonl")}
    values = {"model": model, "data": data, "output_dir": str(tmp_path / "run")}
    checkpoint = tmp_path / "run" / "checkpoint-4"
    checkpoint.mkdir(parents=True)
    put_records(checkpoint, 4, 9)
    seal(checkpoint, {"step": 4, "run_id": "one"})
    (tmp_path / "run" / "manifest.json").write_text(json.dumps(MANIFEST))
    return build_run(values, "continued_pretraining")


def test_a_run_file_of_a_folder_that_was_moved_does_not_begin_anew_where_it_was(run, tmp_path):
    there = Path(run.output_dir, "run.yaml")
    check_not_moved([str(there)], run)
    moved = Path(run.output_dir).rename(tmp_path / "moved here") / "run.yaml"
    with pytest.raises(
        ConfigError, match=rf"its run is in {run.output_dir}, .* add output_dir='{moved.parent}' to go on"
    ):
        check_not_moved([str(moved)], run)
    check_not_moved([str(moved), f"output_dir={moved.parent}"], run)
    check_not_moved([str(moved), "output_dir=new"], run)
    (moved.parent / "manifest.json").unlink()  # no run folder: a run file like any other
    check_not_moved([str(moved)], run)


def test_a_checkpoint_that_is_not_there_is_named_where_the_run_is_finished_too(run):
    Path(run.output_dir, "report.json").write_text(json.dumps({"status": "done"}))
    for there in ("auto", "checkpoint-4"):  # the command that went on from it is typed again
        with pytest.raises(RunFinished):
            check_typed_again(named(run, there), 1, allow_changed=False)
    with pytest.raises(ConfigError, match="no such checkpoint: checkpoint-7; name one of"):
        check_typed_again(named(run, "checkpoint-7"), 1, allow_changed=False)


def named(run: Run, checkpoint: str) -> Run:
    return run.model_copy(update={"train": {"resume_from_checkpoint": checkpoint}})


def test_another_number_of_processes_is_refused_unless_it_is_allowed(run):
    check_processes(run, 2, allow_changed=False)
    check_processes(run, 1, allow_changed=True)
    with pytest.raises(ConfigError, match=r"1 processes, and the run began with 2: .* allow it with --allow-changed"):
        check_processes(run, 1, allow_changed=False)


def test_where_it_is_started_again_with_fewer_processes_a_step_keeps_its_rows(run, caplog):
    train = {"per_device_train_batch_size": 4, "gradient_accumulation_steps": 3}
    there, manifest = Path(run.output_dir, "run.yaml"), Path(run.output_dir, "manifest.json")
    there.write_text(json.dumps({"recipe": run.recipe, "train": train}))
    run = run.model_copy(update={"train": run.train | train})
    again = name_restart(1, {})
    kept = keep_rows_of_a_step(run, 1, again, says=True)
    assert kept.train == run.train | {"gradient_accumulation_steps": 6}
    said = "1 process is left: train.gradient_accumulation_steps is 6 instead of 3, for the 24 rows of a step"
    assert caplog.messages == [said]
    check_processes(kept, 1, allow_changed=False)
    assert keep_rows_of_a_step(run, 2, again) is run
    assert keep_rows_of_a_step(run, 5, again) is run  # which cannot share 24 rows out
    assert keep_rows_of_a_step(run, 1, name_restart(0, {})) is run  # typed again: refused
    assert keep_rows_of_a_step(run, 1, {}) is run
    # Once more: by now the run has so many batches, of one process.
    there.write_text(json.dumps({"recipe": run.recipe, "train": kept.train}))
    manifest.write_text(json.dumps(MANIFEST | {"processes": 1}))
    assert keep_rows_of_a_step(run, 1, again) == kept
    assert keep_rows_of_a_step(run, 2, again) is run


def test_of_another_recipe_nothing_else_that_differs_is_said(run):
    settings = {"recipe": "sft", "model": {"path": "base"}, "train": {"learning_rate": 0.5, "seed": 9}}
    Path(run.output_dir, "run.yaml").write_text(json.dumps(settings))
    with pytest.raises(ConfigError) as refused:
        check_typed_again(run, 1, allow_changed=False)
    [problem] = refused.value.problems
    assert (problem.key, problem.remedy) == ("recipe", "put it back, or name another output_dir")


def test_the_first_process_alone_reads_the_checkpoint_and_says_it_and_all_go_on_from_it(run, caplog):
    caplog.set_level(logging.INFO)
    sent: list[object] = []
    first = choose_checkpoint(run, first=True, broadcast=lambda found: sent.extend(found) or found)
    assert first == f"{run.output_dir}/checkpoint-4"
    assert caplog.text.count("goes on from") == 1
    (Path(run.output_dir) / "checkpoint-4" / "trainer_state.json").unlink()  # another has no need to look
    assert choose_checkpoint(run, first=False, broadcast=lambda _: sent) == first
    assert caplog.text.count("goes on from") == 1


def test_what_the_first_process_refuses_all_refuse(run):
    (Path(run.output_dir) / "checkpoint-4" / "trainer_state.json").write_text("{}")
    sent: list[object] = []
    messages = []
    for first, broadcast in ((True, lambda found: sent.extend(found) or found), (False, lambda _: sent)):
        with pytest.raises(FinetuneError) as refused:
            choose_checkpoint(run, first=first, broadcast=broadcast)
        messages.append(str(refused.value))
    assert messages[0] == messages[1]


def test_other_versions_and_processes_are_said_when_a_run_goes_on(run, caplog):
    now = MANIFEST | {"versions": {"torch": "2.13.0"}, "processes": 1}
    open_manifest(run.output_dir, now, "recipe: sft\n", resume="checkpoint-4")
    said = "since the run began, this has changed: torch 2.12.0 -> 2.13.0, processes 2 -> 1; it is not bit for bit one"
    assert said in caplog.text
    caplog.clear()
    open_manifest(run.output_dir, now, "recipe: sft\n", resume="checkpoint-4")
    assert caplog.text == ""


def test_settings_that_cannot_be_compared_are_said(run, caplog):
    file = Path(run.output_dir, "run.yaml")
    for torn in (b"\0" * 3_000, b"model: {", b"[]"):
        caplog.clear()
        file.write_bytes(torn)
        assert check_typed_again(run, 1, allow_changed=False) == []
        say_changes([], f"{run.output_dir}/checkpoint-4")
        assert "run.yaml is torn, and is written anew: the settings are compared with nothing" in caplog.text
    caplog.clear()
    file.write_text("recipe: continued_pretraining\n")
    say_changes([], f"{run.output_dir}/checkpoint-4")
    assert not caplog.messages


@pytest.mark.parametrize(
    ("key", "new", "said"),
    [
        (
            "train.max_steps",
            3,
            "beyond train.max_steps already, at step 4: no step is taken, and it ends with its 4 steps",
        ),
        ("train.num_train_epochs", 0.3, "beyond train.num_train_epochs already, at epoch 0.4: no step is taken"),
        ("train.max_steps", 4, None),
        ("train.max_steps", -1, None),
        ("train.num_train_epochs", 5, None),
        ("train.seed", 5, None),
    ],
)
def test_a_run_that_is_beyond_its_new_end_says_so(run, caplog, key, new, said):
    change = Change(key, 9, new, "schedule", "changes the schedule, from the next step on")
    say_changes([change], f"{run.output_dir}/checkpoint-4")
    assert said is None or said in caplog.text
    assert caplog.text.count("WARNING") == 1 + (said is not None)
