"""Checkpoints go to a branch of their own while the run goes on; what fails there is seen, and never stops the run."""

from __future__ import annotations

import logging
import threading
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch
from models.scratch_models import tiny_model
from release.hub.hub_folders import model_folder
from release.hub.hub_server import Fault
from release.hub.test_hub import run_of
from training.trainers.sft_runs import trainer_of
from tuned_adapters import adapter_on, saved_base

from hf_finetune.config.sections import HubSection
from hf_finetune.release.hub import push_checkpoints
from hf_finetune.release.hub.checkpoints import CheckpointPusher

LOGGER = "hf_finetune.release.hub.checkpoints"


def train(model, folder: Path, callback: CheckpointPusher, **settings: object) -> None:
    trainer = trainer_of(model, folder / "out", max_steps=4, per_device_train_batch_size=2, **settings)
    trainer.add_callback(callback)
    trainer.train()


def pushing(every: int = 2, patience: float = 1.0, **hub: object) -> CheckpointPusher:
    return CheckpointPusher(HubSection(repo_id="ada/model", push_every=every, **hub), patience)


def titles(hub, branch="checkpoints") -> list[str]:
    repository = hub.repositories["ada/model"]
    found, commit = [], repository.branches[branch]
    while commit:
        found.append(repository.titles[commit])
        commit = repository.parents[commit]
    return found[::-1]


def test_a_run_pushes_its_weights_every_so_many_steps_to_a_branch_of_their_own(hub, tmp_path, caplog):
    caplog.set_level(logging.INFO, LOGGER)
    callback = pushing()
    model = tiny_model()
    train(model, tmp_path, callback)
    assert callback.pushed == [2, 4] or callback.pushed == [4], "the second may overtake the first while it waits"
    assert callback.failed == []
    assert titles(hub)[-1] == "Checkpoint of step 4"
    there = hub.files("ada/model", "checkpoints")
    assert {"config.json", "model.safetensors", "modeling_scratch_gpt.py", "tokenizer.json"} < set(there)
    assert not [name for name in there if name.endswith((".bin", ".pt", ".pth", ".pkl", "trainer_state.json"))]
    assert there["model.safetensors"] == (tmp_path / "out/checkpoint-4/model.safetensors").read_bytes()
    assert set(hub.files("ada/model")) == {".gitattributes"}, "main waits for the finished model"
    assert hub.repositories["ada/model"].private
    assert not list((tmp_path / "out").glob(".push-*"))
    assert "checkpoint-4 pushed" in caplog.text


def test_checkpoints_are_saved_for_it_where_none_would_be(hub, tmp_path):
    callback = pushing(every=3)
    train(tiny_model(), tmp_path, callback, save_strategy="no")
    assert callback.pushed == [3]


def test_a_rotated_checkpoint_is_pushed_all_the_same(hub, tmp_path):
    hub.make("ada/model")
    hub.faults = [Fault(503, "GET", "/api/models", times=2)]
    callback = pushing(every=1, patience=5.0)
    train(tiny_model(), tmp_path, callback, save_strategy="steps", save_steps=1, save_total_limit=1)
    assert callback.pushed[-1] == 4
    assert callback.failed == []


def test_an_adapter_pushes_no_path_of_this_machine(hub, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    model = adapter_on(saved_base(tmp_path / "base"))
    train(model, tmp_path, pushing(every=4))
    there = hub.files("ada/model", "checkpoints")
    assert {"adapter_config.json", "adapter_model.safetensors"} < set(there)
    assert "model.safetensors" not in there
    assert "README.md" not in there
    assert b'"base_model_name_or_path": "base"' in there["adapter_config.json"]
    assert not any(str(tmp_path).encode() in content for content in there.values())


def test_a_failure_is_logged_retried_with_the_next_and_never_stops_the_run(hub, tmp_path, caplog):
    caplog.set_level(logging.INFO, LOGGER)
    hub.make("ada/model")
    hub.repositories["ada/model"].branches["v1-checkpoints"] = hub.repositories["ada/model"].branches["main"]
    hub.faults = [Fault(403, "POST", "/commit/")]
    callback = pushing(every=1, revision="v1")
    model = tiny_model()
    train(model, tmp_path, callback)
    assert callback.failed
    assert callback.pushed[-1] == 4
    assert titles(hub, "v1-checkpoints")[-1] == "Checkpoint of step 4"
    assert f"checkpoint-{callback.failed[0]} was not pushed: the token may not do that (403" in caplog.text
    assert "checkpoints that were not pushed, 1 of" in caplog.text
    assert all(torch.isfinite(weight).all() for weight in model.parameters())


def test_a_hub_that_never_answers_is_said_at_the_end(hub, tmp_path, caplog):
    hub.faults = [Fault(500, times=1000)]
    callback = pushing(patience=0.05)
    train(tiny_model(), tmp_path, callback)
    assert callback.pushed == []
    assert "checkpoints that were not pushed" in caplog.text
    assert "the Hub has trouble of its own (500" in caplog.text


def test_never_are_two_under_way_and_only_the_newest_waits(hub, tmp_path, monkeypatch):
    under_way, most, release_first = [], [], threading.Event()
    callback = pushing(every=1)
    push = CheckpointPusher._push

    def slow(self, step, held):
        under_way.append(step)
        most.append(len(under_way))
        if step == 1:
            assert release_first.wait(20)
        push(self, step, held)
        under_way.remove(step)

    monkeypatch.setattr(CheckpointPusher, "_push", slow)
    args = SimpleNamespace(output_dir=tmp_path, world_size=1)
    for step in (1, 2, 3, 4):
        model_folder(tmp_path / f"checkpoint-{step}", seed=step)
        callback.on_save(args, SimpleNamespace(global_step=step, is_world_process_zero=True), None)
        while step == 1 and not under_way:
            pass
    release_first.set()
    callback.on_train_end(args, None, None)
    assert callback.pushed == [1, 4]
    assert max(most) == 1


@pytest.mark.parametrize("hub_settings", [None, {}])
def test_nothing_is_added_to_a_run_that_did_not_ask(tmp_path, hub_settings):
    run = run_of(tmp_path)
    assert push_checkpoints(run if hub_settings is not None else run.model_copy(update={"hub": None})) == []
    assert len(push_checkpoints(run_of(tmp_path, push_every=5))) == 1


def test_other_ranks_save_and_do_not_push(tmp_path):
    callback = pushing(every=2)
    control = SimpleNamespace(should_save=False)
    callback.on_step_end(None, SimpleNamespace(global_step=2), control)
    assert control.should_save, "a sharded model is saved by all ranks together"
    callback.on_save(
        SimpleNamespace(output_dir=tmp_path), SimpleNamespace(global_step=2, is_world_process_zero=False), None
    )
    assert list(tmp_path.iterdir()) == []
