"""A run that the disk has no room for is refused before its first step, with the numbers."""

from __future__ import annotations

import shutil
from collections import namedtuple
from pathlib import Path

import pytest
from models.scratch_models import save_chat_base

from hf_finetune.errors import CannotWriteError
from hf_finetune.training.checkpoints import room, saver
from hf_finetune.training.checkpoints.room import Room
from hf_finetune.training.trainers.base import TrainerMixin

SMALL = ("train.eval_strategy=no", "train.load_best_model_at_end=false", "train.bf16=false", "eval.max_new_tokens=1",
         "train.save_strategy=steps", "train.save_steps=1", "train.max_steps=1")  # fmt: skip
SCRATCH = ("model.scratch.hidden_size=64", "model.scratch.num_hidden_layers=1", "model.scratch.num_attention_heads=2")
Usage = namedtuple("Usage", "total used free")


def size_of(folder: Path) -> int:
    return sum(path.stat().st_size for path in folder.rglob("*") if path.is_file())


OPTIMIZERS = ["adamw_torch", "sgd", "adafactor", "muon"]


@pytest.mark.parametrize("run", [*OPTIMIZERS, "rmsprop", "lora", "classification"])
def test_the_estimate_is_within_a_tenth_of_the_real_size(run_recipe, tmp_path, project_root, monkeypatch, request, run):
    if run not in ("adafactor", "lora") and not request.config.getoption("--faults"):
        pytest.skip("with --faults")
    planned: list[Room] = []
    monkeypatch.setattr(saver, "check_room", lambda need, folder: planned.append(need))
    if run == "lora":
        base = save_chat_base(tmp_path / "base", project_root / "data_templates" / "user_assistant.jsonl")
        run_recipe("lora", f"model.path={base}", "eval.prompts=[]", *SMALL)
    elif run == "classification":
        run_recipe("classification", *SMALL)
    else:
        run_recipe("char_model", *SCRATCH, *SMALL, f"train.optim={run}")
    real = size_of(tmp_path / "run" / "checkpoint-1")
    assert planned[0].checkpoint == pytest.approx(real, rel=0.1)
    weights = sum(path.stat().st_size for path in (tmp_path / "run").glob("*.safetensors"))
    assert 0.9 * weights <= planned[0].model <= 1.6 * weights + 100_000


def test_a_run_without_room_is_refused_before_its_first_step(run_recipe, tmp_path, monkeypatch):
    monkeypatch.setattr(TrainerMixin, "training_step", None)
    monkeypatch.setattr(room.shutil, "disk_usage", lambda folder: Usage(10**9, 10**9, 1_000))
    words = r"output_dir: the run needs 2 MiB in .*run, where 1 KiB are free: up to 3 checkpoints of \d+ KiB at once, "
    words += r"and a model of \d+ KiB; make room, .*, or set train\.save_total_limit lower"
    with pytest.raises(CannotWriteError, match=words) as refused:
        run_recipe("char_model", *SCRATCH, *SMALL, "train.max_steps=9", "train.save_total_limit=2")
    assert refused.value.exit_code == 5


@pytest.mark.parametrize(
    ("kept", "most", "there", "needed"),
    [
        (0, 0, 0, 70),  # the model alone
        (2, 3, 0, 300),  # a third checkpoint is written before the first is removed
        (2, 3, 200, 100),  # what gives way is room
        (1, 1, 0, 170),
        (2, 2, 900, 0),
    ],
)
def test_what_has_to_be_free_is_what_is_there_at_once_less_what_gives_way(kept, most, there, needed):
    assert Room(checkpoint=100, kept=kept, most=most, model=70, there=there).needed == needed


def test_room_that_is_just_enough_will_do(tmp_path):
    free = shutil.disk_usage(tmp_path).free
    room.check_room(Room(checkpoint=1, kept=1, most=1, model=min(free // 2, 10**6), there=0), tmp_path)
