"""A run that goes on is the one that was saved: its weights, what of it is trained, its losses; new settings hold."""

from __future__ import annotations

import json
import random
from pathlib import Path
from typing import Any

import pytest
import torch
from models.scratch_models import tiny_model
from peft import LoraConfig, get_peft_model
from training.trainers.sft_runs import losses_of, trainer_of, uneven_rows
from transformers import TrainerCallback

from hf_finetune.errors import ModelError
from hf_finetune.folders.checkpoints import SEAL
from hf_finetune.models import attach_adapter
from hf_finetune.training.checkpoints.record import check_first_loss, find_bound

SETTINGS = {
    "per_device_train_batch_size": 2, "max_steps": 10, "save_strategy": "steps", "save_steps": 10,
    "learning_rate": 1e-2, "logging_steps": 1,
}  # fmt: skip


ADAPTER = {"r": 4, "target_modules": ["q_proj", "v_proj"]}
pytestmark = pytest.mark.filterwarnings("ignore:`is_gradient_checkpointing` is deprecated:FutureWarning")


def make_trainer(folder: Path, *, adapter: bool = False, **settings: Any) -> Any:
    torch.manual_seed(0)
    model: Any = tiny_model(attention="sdpa")
    if adapter:
        model.config._name_or_path = "base"  # an adapter needs one that is stored
        model = attach_adapter(model, ADAPTER)
    return trainer_of(model, folder, uneven_rows(), **SETTINGS | settings)


def go_on(trainer: Any, folder: Path) -> Any:
    trainer.train(resume_from_checkpoint=str(folder / "checkpoint-10"))
    return trainer


@pytest.fixture(scope="module")
def trained(tmp_path_factory) -> Path:
    folder = tmp_path_factory.mktemp("trained")
    make_trainer(folder, adapter=True).train()
    return folder


def test_a_checkpoint_says_what_was_trained_and_the_losses_of_its_last_steps(tmp_path):
    trainer = make_trainer(tmp_path, gradient_accumulation_steps=2)
    trainer.train()
    facts = json.loads((tmp_path / "checkpoint-10" / SEAL).read_text())
    assert facts["trainable"] == sum(each.numel() for each in trainer.model.parameters() if each.requires_grad)
    assert facts["losses"] == pytest.approx(losses_of(trainer), rel=1e-6)


def thaw(model: Any) -> None:
    for each in model.parameters():
        each.requires_grad_(True)


def test_a_base_that_is_not_frozen_any_more_is_refused_before_a_step(trained, monkeypatch):
    """27 times the parameters were trained: https://github.com/Blaizzy/mlx-vlm/issues/2178."""
    trainer = make_trainer(trained, adapter=True, max_steps=12)
    thaw(trainer.model)
    with pytest.raises(ModelError, match="checkpoint-10 holds a model of another shape"):
        go_on(trainer, trained)
    later = make_trainer(trained, adapter=True, max_steps=12)
    restore = later.checkpoints.restore
    monkeypatch.setattr(later.checkpoints, "restore", lambda path: (restore(path), thaw(later.model))[0])
    with pytest.raises(ModelError, match=r"[\d,]+ values would be trained, and up to the checkpoint it was [\d,]+"):
        go_on(later, trained)
    assert later.state.global_step == 10


@pytest.mark.filterwarnings(
    "ignore:You are trying to modify a model with PEFT for a second time", "ignore:Already found"
)
def test_an_adapter_that_is_wrapped_a_second_time_is_refused_before_a_step(trained):
    """The first one's weights were thrown away: https://github.com/huggingface/lerobot/pull/3459."""
    trainer = make_trainer(trained, adapter=True, max_steps=12)
    trainer.model = trainer.model_wrapped = get_peft_model(trainer.model, LoraConfig(**ADAPTER))
    steps: list[int] = []
    trainer.add_callback(_Counting(steps))
    with pytest.raises(ModelError):
        go_on(trainer, trained)
    assert steps == []


def test_weights_that_were_changed_after_they_were_restored_are_refused_before_a_step(trained, monkeypatch):
    trainer = make_trainer(trained, adapter=True, max_steps=12)
    restore = trainer.checkpoints.restore

    def restore_and_forget(checkpoint: Path) -> dict[str, Any]:
        state = restore(checkpoint)
        with torch.no_grad():
            for name, each in trainer.model.named_parameters():
                each.mul_(0.0 if "lora_B" in name else 1.0)
        return state

    monkeypatch.setattr(trainer.checkpoints, "restore", restore_and_forget)
    with pytest.raises(ModelError, match=r"lora_B.weight is not what checkpoint-10 holds"):
        go_on(trainer, trained)
    assert trainer.state.global_step == 10


def test_a_first_loss_far_above_those_before_is_refused_before_the_optimizer_steps(tmp_path, monkeypatch):
    make_trainer(tmp_path).train()
    trainer = make_trainer(tmp_path, max_steps=12)
    compute = trainer.compute_loss
    monkeypatch.setattr(trainer, "compute_loss", lambda *args, **kwargs: compute(*args, **kwargs) * 50)
    optimizer_steps: list[int] = []
    trainer.add_callback(_Counting(optimizer_steps))
    with pytest.raises(ModelError, match=r"step 11, the first after the checkpoint, has a loss of \d\S* the 10 steps"):
        go_on(trainer, tmp_path)
    assert optimizer_steps == []
    change = {"from": "checkpoint-10", "key": "data.loss_on", "old": "last", "new": "all", "kind": "unsafe"}
    (tmp_path / "manifest.json").write_text(json.dumps({"changes": [change]}))  # allowed: other tokens are trained
    go_on(trainer, tmp_path)
    assert optimizer_steps == [10, 11]


class _Counting(TrainerCallback):
    def __init__(self, steps: list[int]) -> None:
        self.steps = steps

    def on_optimizer_step(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        self.steps.append(state.global_step)


def test_noise_is_never_refused_and_lost_weights_of_a_trained_model_are():
    draw = random.Random(0)
    for _ in range(5_000):  # losses of single rows: lognormal, a factor of five between the tenths at both ends
        level, spread = draw.uniform(0.01, 4), draw.uniform(0.05, 0.6)
        losses = [level * draw.lognormvariate(0, spread) for _ in range(draw.randint(8, 64))]
        check_first_loss(level * draw.lognormvariate(0, spread), losses, 9)
    with pytest.raises(ModelError):
        check_first_loss(10.8, [draw.gauss(1.5, 0.2) for _ in range(64)], 65)
    assert find_bound([1.0] * 7) is None


def test_a_rate_a_decay_and_intervals_that_are_new_hold_from_the_next_step_on(tmp_path):
    constant = {"lr_scheduler_type": "constant", "weight_decay": 0.0}
    make_trainer(tmp_path, **constant).train()
    new = {"learning_rate": 5e-4, "weight_decay": 0.25, "adam_beta2": 0.5, "logging_steps": 2, "save_steps": 3}
    trainer = go_on(make_trainer(tmp_path, **constant | new, max_steps=14), tmp_path)
    logged = {each["step"]: each["learning_rate"] for each in trainer.state.log_history if "learning_rate" in each}
    assert {step: rate for step, rate in logged.items() if step > 10} == {12: 5e-4, 14: 5e-4}
    decays = {group["weight_decay"] for group in trainer.optimizer.param_groups}
    assert 0.25 in decays
    assert {group["betas"][1] for group in trainer.optimizer.param_groups} == {0.5}
    assert {path.name for path in tmp_path.glob("checkpoint-*")} == {f"checkpoint-{step}" for step in (10, 12, 14)}


def test_a_finished_run_trains_on_by_the_schedule_of_its_new_length(tmp_path):
    make_trainer(tmp_path, lr_scheduler_type="linear").train()  # which has come to a rate of 0
    trainer = go_on(make_trainer(tmp_path, lr_scheduler_type="linear", max_steps=20), tmp_path)
    logged = {each["step"]: each["learning_rate"] for each in trainer.state.log_history if "learning_rate" in each}
    assert [logged[step] for step in (11, 12, 20)] == pytest.approx([0.5e-2, 0.45e-2, 0.05e-2])
