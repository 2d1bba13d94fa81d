"""What SFTTrainer does with its rows: which positions reach the output head, what is counted, and in which order."""

from __future__ import annotations

import pytest
from models.scratch_models import tiny_model
from training.trainers.sft_runs import ONE_SGD_STEP, losses_of, trainer_of, uneven_rows


def test_only_trained_positions_reach_the_output_head_on_a_cpu(tmp_path):
    model, rows = tiny_model(attention="sdpa"), uneven_rows()
    trainer = trainer_of(model, tmp_path, rows, max_steps=1, per_device_train_batch_size=8, **ONE_SGD_STEP)
    projected = []
    model.get_output_embeddings().register_forward_hook(
        lambda _, states, __: projected.append(states[0].shape[:-1].numel())
    )
    trainer.train()
    trained = sum(label != -100 for row in rows for label in row["labels"][1:])
    assert projected == [trained]
    assert trained < sum(rows["length"])


def test_accumulation_is_exact_for_a_model_that_takes_no_arguments_for_its_loss(tmp_path):
    """transformers counts the tokens of a step only for models that take their number."""
    losses = []
    for size, steps in ((8, 1), (2, 4)):
        model = tiny_model(attention="sdpa")
        model.accepts_loss_kwargs = False
        sizes = {"per_device_train_batch_size": size, "gradient_accumulation_steps": steps}
        trainer = trainer_of(model, tmp_path, uneven_rows(), max_steps=1, **ONE_SGD_STEP, **sizes)
        trainer.train()
        losses += losses_of(trainer)
    assert losses[0] == pytest.approx(losses[1], rel=1e-5)


def test_a_resumed_run_sees_its_rows_in_the_order_of_an_uninterrupted_one(tmp_path):
    settings = {"train_sampling_strategy": "group_by_length", "per_device_train_batch_size": 2, "max_steps": 11}
    settings |= {"save_strategy": "steps", "save_steps": 3, "learning_rate": 1e-3}
    whole = trainer_of(tiny_model(attention="sdpa"), tmp_path, uneven_rows(), **settings)
    whole.train()
    resumed = trainer_of(tiny_model(attention="sdpa"), tmp_path, uneven_rows(), **settings)
    resumed.train(resume_from_checkpoint=str(tmp_path / "checkpoint-6"))
    assert losses_of(resumed) == losses_of(whole)
    assert all(
        (one == other).all() for one, other in zip(resumed.model.parameters(), whole.model.parameters(), strict=True)
    )
