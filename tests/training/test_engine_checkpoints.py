"""Checkpoints that an engine writes (FSDP, DeepSpeed): sealed as ours, with what the run has counted.

Neither runs on a CPU: the Trainer's own format stands for the engine's, which is saved and loaded at the same places.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from models.scratch_models import tiny_model
from training.trainers.sft_runs import losses_of, trainer_of, uneven_rows
from transformers import EarlyStoppingCallback, TrainerCallback

from hf_finetune.folders.checkpoints import find_faults
from hf_finetune.training.trainers.resumable import ResumableTrainer

pytestmark = pytest.mark.filterwarnings("ignore:`is_gradient_checkpointing` is deprecated:FutureWarning")
SETTINGS = {
    "per_device_train_batch_size": 2, "save_strategy": "steps", "save_steps": 2, "save_total_limit": 1,
    "learning_rate": 1e-2, "logging_steps": 3, "eval_strategy": "steps", "eval_steps": 2,
    "load_best_model_at_end": True, "metric_for_best_model": "loss",
}  # fmt: skip


@pytest.fixture(autouse=True)
def engine(monkeypatch) -> None:
    monkeypatch.setattr(ResumableTrainer, "shards_itself", True)


def make_trainer(folder: Path) -> Any:
    torch.manual_seed(0)
    trainer = trainer_of(tiny_model(attention="sdpa"), folder, uneven_rows(), **SETTINGS, max_steps=8)
    trainer.add_callback(EarlyStoppingCallback(5))
    return trainer


class Stop(TrainerCallback):
    """Ends a run after the save of step 4."""

    def on_step_begin(self, args, state, control, **kwargs):
        if state.global_step == 4:
            raise RuntimeError("made by a test")


def test_a_run_goes_on_from_an_engines_checkpoint_with_what_it_had_counted(tmp_path):
    whole = make_trainer(tmp_path / "whole")
    whole.train()
    cut = make_trainer(tmp_path / "cut")
    cut.add_callback(Stop())
    with pytest.raises(RuntimeError, match="made by a test"):
        cut.train()
    checkpoint = tmp_path / "cut" / "checkpoint-4"
    assert find_faults(checkpoint) == []
    assert not {"training_args.bin", "rng_state.pth"} & {path.name for path in checkpoint.iterdir()}
    assert not [*tmp_path.rglob(".*aside*")]
    resumed = make_trainer(tmp_path / "cut")
    resumed.train(resume_from_checkpoint=str(checkpoint))
    assert losses_of(resumed) == losses_of(whole)  # each the mean of three steps, of one of them before the checkpoint
    assert resumed.seen.save() == whole.seen.save()
    for name, weight in whole.model.state_dict().items():
        assert torch.equal(weight, resumed.model.state_dict()[name]), name
