from __future__ import annotations

import platform

import pytest
import torch
import transformers
from datasets import Dataset
from transformers import TrainingArguments
from transformers.trainer_utils import IntervalStrategy

from hf_finetune.data.tokenization.documents import BlockCollator
from hf_finetune.errors import DataError
from hf_finetune.evaluation.language_modeling.trainer_metrics import reduce_logits
from hf_finetune.models.scratch_gpt.configuration_scratch_gpt import ScratchGPTConfig
from hf_finetune.models.scratch_gpt.modeling_scratch_gpt import ScratchGPTForCausalLM
from hf_finetune.training.allocator import keep_freed_memory
from hf_finetune.training.trainers import base
from hf_finetune.training.trainers.base import Trainer


@pytest.fixture
def trainer(tmp_path):
    return trainer_of_three_rows(tmp_path, batch=4)


def trainer_of_three_rows(folder, batch):
    config = ScratchGPTConfig(vocab_size=11, hidden_size=16, num_hidden_layers=1, num_attention_heads=2)
    rows = Dataset.from_dict({"input_ids": [[1, 2, 3]] * 3, "labels": [[-100, 2, 3]] * 3})
    args = TrainingArguments(
        output_dir=str(folder), per_device_train_batch_size=batch, dataloader_drop_last=True, use_cpu=True
    )
    return Trainer(model=ScratchGPTForCausalLM(config), args=args, train_dataset=rows, data_collator=BlockCollator())


def test_a_run_of_no_steps_is_refused_with_its_numbers(trainer):
    with pytest.raises(DataError, match="0 optimizer steps: 3 rows make no batch of 4"):
        trainer.train()


def test_processes_that_have_read_other_rows_are_refused_before_one_waits_for_another(tmp_path, monkeypatch):
    trainer = trainer_of_three_rows(tmp_path, batch=1)
    monkeypatch.setattr(base, "gather_object", lambda mine: [*mine, [2, None]])
    with pytest.raises(
        DataError, match=r"have not read the same rows \(process 0: 3, process 1: 2; and those of valid"
    ):
        trainer.train()
    assert trainer.state.global_step == 0


def test_a_batch_that_can_be_filled_is_not_refused(tmp_path):
    assert len(trainer_of_three_rows(tmp_path, batch=3).get_train_dataloader()) == 1


def test_the_operations_are_those_that_transformers_counts(trainer):
    batch = {"input_ids": torch.zeros(2, 7, dtype=torch.long)}
    assert trainer.floating_point_ops(batch) == transformers.Trainer.floating_point_ops(trainer, batch) > 0


def test_glibc_takes_the_advice_to_keep_memory():
    assert keep_freed_memory() == (platform.libc_ver()[0] == "glibc")


def test_early_stopping_ends_with_training(tmp_path):
    trainer = trainer_of_three_rows(tmp_path, batch=3)
    trainer.add_callback(transformers.EarlyStoppingCallback(1))
    trainer.args.load_best_model_at_end, trainer.args.metric_for_best_model = True, "loss"
    trainer.args.eval_strategy, trainer.args.eval_steps, trainer.args.max_steps = IntervalStrategy.STEPS, 1, 1
    trainer.args.dataloader_drop_last = False  # three rows are less than an evaluation's batch
    trainer.eval_dataset = trainer.train_dataset
    trainer.train()
    assert not any(isinstance(each, transformers.EarlyStoppingCallback) for each in trainer.callback_handler.callbacks)


def test_of_evaluated_rows_no_labels_are_kept_and_the_sums_are_those_of_each_row(tmp_path):
    trainer = trainer_of_three_rows(tmp_path, batch=2)
    trainer.args.dataloader_drop_last, trainer.args.per_device_eval_batch_size = False, 2
    rows = Dataset.from_dict({"input_ids": [[1, 2, 3, 4]] * 5, "labels": [[-100, 2, 3, place] for place in range(5)]})
    trainer = Trainer(
        model=trainer.model,
        args=trainer.args,
        data_collator=BlockCollator(),
        compute_metrics=lambda prediction: {"rows": len(prediction.predictions)},
        preprocess_logits_for_metrics=reduce_logits,
    )
    kept = trainer.predict(rows)
    assert kept.metrics["test_rows"] == 5
    assert kept.label_ids.shape == (5,)  # not (5, 4): nothing that grows with the length of a row
    with torch.no_grad():
        logits = trainer.model(torch.tensor(rows["input_ids"][:])).logits
    log_probs = logits[:, :-1].log_softmax(-1)
    expected = -log_probs.gather(-1, torch.tensor(rows["labels"][:])[:, 1:, None]).sum((1, 2))
    torch.testing.assert_close(torch.from_numpy(kept.predictions[:, 0]), expected)
    assert kept.metrics["test_loss"] == pytest.approx(expected.sum().item() / 15, rel=1e-5)
