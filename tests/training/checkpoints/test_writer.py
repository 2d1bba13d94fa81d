"""A checkpoint holds the state of its step, however long the copy takes: training waits for it where it must."""

from __future__ import annotations

import threading
from pathlib import Path
from typing import Any

import pytest
import torch
from datasets import Dataset
from safetensors.torch import load_file
from transformers import TrainerCallback, TrainingArguments

from hf_finetune.data.tokenization.documents import BlockCollator
from hf_finetune.models.scratch_gpt.configuration_scratch_gpt import ScratchGPTConfig
from hf_finetune.models.scratch_gpt.modeling_scratch_gpt import ScratchGPTForCausalLM
from hf_finetune.training.checkpoints.disk import Snapshot
from hf_finetune.training.checkpoints.model_files import Weights
from hf_finetune.training.checkpoints.writer import CheckpointWriter
from hf_finetune.training.trainers.base import Trainer


@pytest.fixture
def late(monkeypatch) -> threading.Event:
    """What is copied beside training is copied once this is set."""
    may_copy, copy = threading.Event(), CheckpointWriter._copy

    def copied(self: CheckpointWriter, *args: Any) -> None:
        if threading.current_thread() is not threading.main_thread():
            assert may_copy.wait(10)
        copy(self, *args)

    monkeypatch.setattr(CheckpointWriter, "_copy", copied)
    return may_copy


def take(folder: Path, tensors: dict[str, torch.Tensor], still: set[str]) -> Snapshot:
    weights = {"model.safetensors": Weights(tensors, None)}
    keys = frozenset(("model.safetensors", name) for name in still)
    return Snapshot(folder / "checkpoint-1", {}, weights, {}, still=keys)


def test_what_may_change_is_copied_at_once(tmp_path, late):
    tensors = {"weight": torch.ones(3), "buffer": torch.ones(3)}
    writer = CheckpointWriter(None)
    writer.save(take(tmp_path, tensors, {"weight"}))
    tensors["buffer"].zero_()
    late.set()
    writer.wait_for_copy()
    tensors["weight"].zero_()
    writer.wait()
    saved = load_file(tmp_path / "checkpoint-1" / "model.safetensors")
    assert {name: each.tolist() for name, each in saved.items()} == {name: [1.0] * 3 for name in tensors}


def test_a_failing_copy_lets_training_go_on_to_the_error(tmp_path, monkeypatch):
    def fail(*args: Any) -> None:
        if threading.current_thread() is not threading.main_thread():
            raise RuntimeError("made by a test")

    monkeypatch.setattr(CheckpointWriter, "_copy", fail)
    writer = CheckpointWriter(None)
    writer.save(take(tmp_path, {"weight": torch.ones(3)}, {"weight"}))
    writer.wait_for_copy()
    with pytest.raises(RuntimeError, match="made by a test"):
        writer.wait()


def train(folder: Path, callback: TrainerCallback | None = None) -> dict[str, torch.Tensor]:
    """Three steps with a save each; every tensor of the checkpoints, by checkpoint, file and name."""
    torch.manual_seed(0)
    config = ScratchGPTConfig(vocab_size=11, hidden_size=16, num_hidden_layers=1, num_attention_heads=2)
    rows = Dataset.from_dict({"input_ids": [[1, 2, 3]] * 6, "labels": [[-100, 2, 3]] * 6})
    args = TrainingArguments(
        output_dir=str(folder), per_device_train_batch_size=2, use_cpu=True, max_steps=3, save_steps=1,
        learning_rate=0.1, report_to="none", disable_tqdm=True,
    )  # fmt: skip
    model = ScratchGPTForCausalLM(config)
    trainer = Trainer(model=model, args=args, train_dataset=rows, data_collator=BlockCollator())
    if callback is not None:
        trainer.add_callback(callback)
    trainer.train()
    files = folder.glob("checkpoint-*/*.safetensors")
    loaded = {f"{path.parent.name} {path.name}": load_file(path) for path in files}
    return {f"{file} {name}": each for file, tensors in loaded.items() for name, each in tensors.items()}


class ZeroWeights(TrainerCallback):
    """Changes the weights between a save and the next step."""

    def __init__(self, late: threading.Event) -> None:
        self.late = late

    def on_step_begin(self, args, state, control, model, **kwargs):
        if state.global_step != 1:
            return
        self.late.set()
        with torch.no_grad():
            for weight in model.parameters():
                weight.zero_()


def test_the_optimizer_waits_for_what_is_copied_beside_training(tmp_path, late, monkeypatch):
    late.set()
    expected = train(tmp_path / "one")
    late.clear()
    waited = CheckpointWriter.wait_for_copy

    def wait_for_copy(self: CheckpointWriter) -> None:
        threading.Timer(0.1, late.set).start()
        waited(self)

    monkeypatch.setattr(CheckpointWriter, "wait_for_copy", wait_for_copy)
    found = train(tmp_path / "other")
    assert found.keys() == expected.keys()
    assert not [name for name, each in expected.items() if not torch.equal(found[name], each)]


def test_weights_that_a_callback_changes_are_copied_before_it(tmp_path, late):
    found = train(tmp_path / "run", ZeroWeights(late))
    weights = [each for name, each in found.items() if name.startswith("checkpoint-1 model")]
    assert any(each.any() for each in weights)  # zeros are what the callback has left
