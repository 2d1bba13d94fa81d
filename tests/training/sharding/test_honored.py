"""A run is not trained otherwise than it was asked to."""

from __future__ import annotations

import pytest
import torch
import torch.distributed as dist
from models.scratch_models import tiny_model
from torch.nn.parallel import DistributedDataParallel
from training.trainers.sft_runs import trainer_of, uneven_rows

from hf_finetune.errors import ConfigError
from hf_finetune.training.sharding.honored import _check_sent, check_honored

pytestmark = pytest.mark.filterwarnings("ignore:`is_gradient_checkpointing` is deprecated:FutureWarning")


def test_a_launch_whose_sharding_was_left_out_is_refused_before_the_first_step(tmp_path, monkeypatch):
    torch.manual_seed(0)
    trainer = trainer_of(tiny_model(), tmp_path, uneven_rows(), max_steps=2)
    monkeypatch.setenv("ACCELERATE_USE_FSDP", "true")  # as accelerate reads it, where it looks
    with pytest.raises(ConfigError, match=r"FSDP2 in float32 was asked for, and what was prepared is NO in float32"):
        trainer.train()
    assert trainer.state.global_step == 0


def test_what_was_asked_for_passes(tmp_path):
    trainer = trainer_of(tiny_model(), tmp_path, uneven_rows(), max_steps=2)
    trainer.train()
    check_honored(trainer)
    held = trainer.held["bytes_per_process"]
    assert held["parameters"] == sum(each.nbytes for each in trainer.model.parameters())
    assert held["optimizer"] > 2 * held["gradients"] > 0


def test_a_precision_of_the_launch_file_alone_is_refused(tmp_path, monkeypatch):
    monkeypatch.setenv("ACCELERATE_MIXED_PRECISION", "bf16")  # as accelerate hands it on
    trainer = trainer_of(tiny_model(), tmp_path, uneven_rows(), max_steps=2)
    with pytest.raises(ConfigError, match=r"NO in float32 was asked for, and what was prepared is NO in bf16"):
        trainer.train()


def test_the_last_process_of_several_that_is_left_shares_nothing(tmp_path):
    trainer = trainer_of(tiny_model(), tmp_path, uneven_rows(), max_steps=1)
    trainer.train()
    # As torchrun starts one alone, and accelerate prepares its model.
    dist.init_process_group("gloo", store=dist.HashStore(), rank=0, world_size=1)
    try:
        trainer.model_wrapped = DistributedDataParallel(trainer.model)
        check_honored(trainer)
        trainer.model_wrapped = trainer.model
    finally:
        dist.destroy_process_group()


def test_a_process_that_was_sent_no_weights_trains_none(tmp_path):
    trainer = trainer_of(tiny_model(), tmp_path, uneven_rows(), max_steps=1)
    _check_sent(trainer)
    with torch.no_grad():
        for each in trainer.model.parameters():
            each.zero_()
    with pytest.raises(RuntimeError, match="process 0 was not sent the weights of the first"):
        _check_sent(trainer)
