"""Resumed at any step, a run is the uninterrupted one bit for bit: rows, losses, weights, state."""

from __future__ import annotations

import shutil
import signal
from pathlib import Path

import pytest
from runs import Ended, compare, get_launch

from hf_finetune.folders.checkpoints import get_step, list_numbered

# Each recipe makes three steps in an epoch: in the middle of one, at its edge, and the same later.
CUTS, FEW = (2, 3, 4, 6), (4,)
KEEP_ALL = ("train.save_steps=1", "train.save_total_limit=50")
EPOCHS = ("train.num_train_epochs=3", "train.max_steps=-1")
NO_BEST = ("train.load_best_model_at_end=false",)
EVAL_EPOCHS = ("train.eval_strategy=epoch", *NO_BEST)
ACCUMULATES = ("train.per_device_train_batch_size=1", "train.gradient_accumulation_steps=4")

QUICK = {
    "sft, accumulation, workers": ("sft", *ACCUMULATES, "train.dataloader_num_workers=2", *EVAL_EPOCHS),
    "lora, packing": ("lora", "train.packing=true", "train.max_length=200", *NO_BEST, "train.eval_steps=5"),
    "classification, by length, muon": (
        "classification", "train.optim=muon", "train.train_sampling_strategy=group_by_length",
    ),
}  # fmt: skip
MORE = {
    "sft": ("sft", *NO_BEST),
    "sft, best": ("sft", "train.eval_steps=1"),
    "sft, packing": ("sft", "train.packing=true", "train.max_length=200", *NO_BEST),
    "sft, by length": ("sft", "train.train_sampling_strategy=group_by_length", *NO_BEST),
    "sft, adafactor": ("sft", "train.optim=adafactor", *NO_BEST),
    "sft, lion": ("sft", "train.optim=lion_32bit", *NO_BEST),
    "sft, constant": ("sft", "train.lr_scheduler_type=constant", *NO_BEST),
    "sft, plateau": ("sft", "train.lr_scheduler_type=reduce_lr_on_plateau", "train.eval_steps=1", *NO_BEST),
    "sft, restarts": ("sft", "train.lr_scheduler_type=cosine_with_restarts", *NO_BEST),
    "sft, warm-up": ("sft", "train.warmup_steps=4", "train.lr_scheduler_type=linear", *NO_BEST),
    "sft, log every 4": ("sft", "train.logging_steps=4", *NO_BEST),
    "lora": ("lora", *NO_BEST),
    "lora, best": ("lora", "train.eval_steps=1"),
    "lora, dora": ("lora", "lora.use_dora=true", *NO_BEST),
    "lora, accumulation": ("lora", *ACCUMULATES, *NO_BEST),
    "lora, workers": ("lora", "train.dataloader_num_workers=2", *NO_BEST),
    "lora, muon": ("lora", "train.optim=muon", *NO_BEST),
    "classification": ("classification",),
    "classification, epochs": ("classification", *EVAL_EPOCHS, "train.early_stopping_patience=null"),
    "classification, sgd": ("classification", "train.optim=sgd"),
    "classification, workers": ("classification", "train.dataloader_num_workers=2"),
    "classification, accumulation": (
        "classification", "train.per_device_train_batch_size=2", "train.gradient_accumulation_steps=4",
    ),
    "classification, rmsprop": ("classification", "train.optim=rmsprop"),
    "documents": ("continued_pretraining",),
    "documents, epochs": ("continued_pretraining", *EPOCHS, "train.per_device_train_batch_size=16"),
    "documents, accumulation": (
        "continued_pretraining", "train.per_device_train_batch_size=2", "train.gradient_accumulation_steps=4",
    ),
    "documents, workers": ("continued_pretraining", "train.dataloader_num_workers=2"),
}  # fmt: skip


@pytest.mark.parametrize("name", [*QUICK, *MORE])
def test_a_resumed_run_is_the_uninterrupted_one(runs, name, every):
    if name in MORE and not every:
        pytest.skip("one of the long trials: --faults")
    recipe, *settings = (QUICK | MORE)[name]
    whole = runs.whole(recipe, *settings, *KEEP_ALL)
    for step in CUTS if every else FEW:
        folder = cut(whole[1], runs.new_folder(), step)
        resumed = runs.run(recipe, folder, *settings, *KEEP_ALL)
        differences = compare(folder, [resumed], whole, begin=step)
        assert not differences, f"resumed from step {step}:\n{differences}"


def cut(whole: Path, folder: Path, step: int) -> Path:
    """What a run leaves that was killed when the checkpoint of `step` was its last."""
    shutil.copytree(whole, folder)
    (folder / "report.json").unlink()
    for checkpoint in list_numbered(folder):
        if get_step(checkpoint) > step:
            shutil.rmtree(checkpoint)
    assert (folder / f"checkpoint-{step}").is_dir()
    return folder


@pytest.mark.parametrize("recipe", ["sft", "lora", "classification", "continued_pretraining"])
def test_a_chain_of_five_resumes_is_the_uninterrupted_run(runs, recipe, every):
    if recipe != "lora" and not every:
        pytest.skip("one of the long trials: --faults")
    whole, folder, attempts = runs.whole(recipe), runs.new_folder(), list[Ended]()
    for step in (1, 3, 4, 6, 7):
        attempts.append(
            runs.start(recipe, folder, hurt={"in": "forward", "step": step, "signal": signal.SIGKILL}).end()
        )
        assert attempts[-1].code == 128 + signal.SIGKILL, attempts[-1].said
    attempts.append(runs.run(recipe, folder))
    assert not compare(folder, attempts, whole)


@pytest.mark.parametrize("recipe", ["sft", "continued_pretraining"])
def test_two_processes_go_on_as_if_they_had_never_ended(runs, recipe, every):
    if not every:
        pytest.skip("one of the long trials: --faults")
    settings = (*KEEP_ALL, *NO_BEST, "train.per_device_train_batch_size=2")
    whole = runs.whole(recipe, *settings, launch=get_launch())
    for step in CUTS:
        folder = cut(whole[1], runs.new_folder(), step)
        resumed = runs.run(recipe, folder, *settings, launch=get_launch())
        assert not compare(folder, [resumed], whole, begin=step)
