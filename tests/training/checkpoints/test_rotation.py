"""Which checkpoints a run keeps: its last and its best ones always, and what is not its own as it is."""

from __future__ import annotations

import math
import os
import random
from pathlib import Path
from typing import Any

import pytest
from safetensors.torch import load_file
from training.callbacks.watched_runs import trainer_in
from transformers import TrainerCallback

from hf_finetune.folders.checkpoints import find_faults, find_verified, get_path, leave_newer, list_sealed, rotate, seal
from hf_finetune.training.checkpoints import disk
from hf_finetune.training.checkpoints.disk import Snapshot

STEPS = 7


@pytest.fixture(autouse=True)
def quick_disk(monkeypatch) -> None:
    """What is on the disk is for others to test."""
    monkeypatch.setattr(os, "fsync", lambda descriptor: None)


def take(folder: Path, step: int, run_id: str = "one") -> Snapshot:
    facts = {"step": step, "run_id": run_id}
    return Snapshot(get_path(folder, step), facts, {}, {"weights": lambda: f"{run_id} {step}".encode()})


def contents(folder: Path) -> dict[str, bytes]:
    return {path.relative_to(folder).as_posix(): path.read_bytes() for path in folder.rglob("*") if path.is_file()}


def test_what_another_run_has_saved_is_not_counted_not_removed_and_not_written_over(tmp_path):
    for step in (1, 3, 9):
        disk.write_checkpoint(take(tmp_path, step, "another"), None)
    before = contents(tmp_path)
    for step in (1, 2, 3, 4):
        disk.write_checkpoint(take(tmp_path, step), 2)
    assert [each.name for each in list_sealed(tmp_path, "one")] == ["checkpoint-3", "checkpoint-4"]
    assert find_verified(tmp_path, run_id="one")[0] == get_path(tmp_path, 4)
    aside = {f"checkpoint-{step}/": f"checkpoint-{step}.of-another-run/" for step in (1, 3)}
    now = contents(tmp_path)
    for name, content in before.items():
        folder, _, file = name.rpartition("/")
        assert now[aside.get(f"{folder}/", f"{folder}/") + file] == content
    disk.write_checkpoint(take(tmp_path, 3, "a third"), None)
    assert "checkpoint-3.of-another-run1" in os.listdir(tmp_path)


def test_whole_checkpoints_beyond_the_one_that_is_gone_on_from_are_left_under_another_name(tmp_path):
    for step, run_id in ((1, "one"), (2, "one"), (3, "another"), (4, "one"), (5, "one")):
        disk.write_checkpoint(take(tmp_path, step, run_id), None)
    (get_path(tmp_path, 4) / "weights").write_text("damaged")
    assert leave_newer(tmp_path, get_path(tmp_path, 1)) == ["checkpoint-2", "checkpoint-5"]
    assert find_verified(tmp_path, run_id="one")[0] == get_path(tmp_path, 1)
    kept = {"checkpoint-1", "checkpoint-2.left", "checkpoint-3", "checkpoint-4", "checkpoint-5.left"}
    assert set(os.listdir(tmp_path)) == kept


def test_where_there_is_no_space_only_a_checkpoint_of_this_run_gives_way(tmp_path):
    for step, run_id in ((1, "another"), (2, "one"), (3, "one")):
        disk.write_checkpoint(take(tmp_path, step, run_id), None)
    assert disk._free_oldest(take(tmp_path, 4))
    assert not disk._free_oldest(take(tmp_path, 4))
    assert sorted(os.listdir(tmp_path)) == ["checkpoint-1", "checkpoint-3"]


def draw_metrics(seed: int) -> list[float]:
    """With ties, and with evaluations that give no number."""
    draw = random.Random(seed)
    return [draw.choice([math.nan, 0.25, 0.5, draw.random()]) for _ in range(STEPS)]


class Look(TrainerCallback):
    """After each save: the last checkpoint and the best one are there, whole, and no more than were asked for."""

    def __init__(self, values: list[float], sign: int, limit: int) -> None:
        self.values, self.sign, self.limit, self.trainer = values, sign, limit, None

    def find_best(self, step: int) -> int | None:
        known = [(self.sign * value, -at) for at, value in enumerate(self.values[:step], 1) if value == value]
        return -max(known)[1] if known else None

    def on_save(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        self.trainer.checkpoints.writer.wait()
        folder = Path(args.output_dir)
        needed = {state.global_step, self.find_best(state.global_step)} - {None}
        for step in needed:
            assert find_faults(get_path(folder, step)) == []
        assert len(list_sealed(folder)) <= max(self.limit, len(needed))


@pytest.mark.parametrize("seed", range(5))
def test_the_best_and_the_last_are_kept_whatever_the_metric_does(tmp_path, seed, monkeypatch):
    values, sign, limit = draw_metrics(seed), random.Random(seed).choice([1, -1]), 1 + seed % 3
    look = Look(values, sign, limit)
    settings = {"eval_steps": 1, "save_strategy": "steps", "save_steps": 1, "save_total_limit": limit}
    settings |= {"load_best_model_at_end": True, "metric_for_best_model": "score", "greater_is_better": sign > 0}
    trainer = trainer_in(tmp_path, look, max_steps=STEPS, learning_rate=0.05, logging_steps=100, **settings)
    look.trainer = trainer
    monkeypatch.setattr(trainer, "evaluate", lambda **_: {"eval_score": values[trainer.state.global_step - 1]})
    trainer.train()
    best = look.find_best(STEPS) or STEPS
    kept = load_file(get_path(tmp_path, best) / "model.safetensors")
    state = trainer.model.state_dict()
    assert all(state[name].equal(weight) for name, weight in kept.items())


def test_every_choice_of_what_to_keep_leaves_that_and_the_newest(tmp_path):
    draw = random.Random(0)
    for number in range(60):
        folder = tmp_path / str(number)
        steps = sorted(draw.sample(range(1, 2_000), draw.randint(1, 7)))
        for step in steps:
            get_path(folder, step).mkdir(parents=True)
            seal(get_path(folder, step), {"step": step})
        keep = {get_path(folder, step) for step in draw.sample(steps, draw.randint(0, min(2, len(steps))))}
        limit = draw.randint(1, 4)
        removed = rotate(folder, limit, keep)
        left = list_sealed(folder)
        assert {*keep, get_path(folder, steps[-1])} <= {*left}
        assert removed == sorted(removed, key=lambda path: int(path.name.split("-")[1]))
        assert len(left) == max(min(limit, len(steps)), len({*keep, get_path(folder, steps[-1])}))
