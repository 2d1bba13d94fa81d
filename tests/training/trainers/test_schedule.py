"""The schedule of the learning rate, and what is said of a warm-up that the run is too short for."""

from __future__ import annotations

import logging

import pytest
from training.callbacks.watched_runs import trainer_in

from hf_finetune.errors import ConfigError


def warned(caplog, folder, **settings) -> tuple[list[str], float]:
    """What is said of the warm-up, and the largest rate that a step was taken at."""
    with caplog.at_level(logging.WARNING, logger="hf_finetune"):
        trainer = trainer_in(folder, logging_steps=1, eval_strategy="no", learning_rate=1.0, **settings)
        trainer.train()
    rates = [entry["learning_rate"] for entry in trainer.state.log_history if "learning_rate" in entry]
    return [each.getMessage() for each in caplog.records if "warm-up" in each.getMessage()], max(rates)


@pytest.mark.parametrize(
    ("settings", "steps"),
    [({"max_steps": 5, "warmup_steps": 8}, 5), ({"max_steps": -1, "num_train_epochs": 4, "warmup_steps": 8}, 8)],
)
def test_a_warm_up_that_the_run_is_too_short_for_is_said_before_its_first_step(tmp_path, caplog, settings, steps):
    (said,), rate = warned(caplog, tmp_path, **settings)
    assert f"the warm-up of 8 steps is as long as the run of {steps} or longer" in said
    assert rate == (steps - 1) / 8
    assert f"{100 * rate:.0f} % of it" in said


@pytest.mark.parametrize(
    "settings", [{"warmup_steps": 5}, {"warmup_steps": 0.8}, {"warmup_steps": 9, "lr_scheduler_type": "constant"}]
)
def test_nothing_is_said_of_a_warm_up_that_ends_or_that_is_none(tmp_path, caplog, settings):
    said, rate = warned(caplog, tmp_path, max_steps=6, **settings)
    assert (said, rate) == ([], 1.0)


@pytest.mark.parametrize(
    ("schedule", "given"),
    [
        ("polynomial", {"lr_end": 5.0}),
        ("warmup_stable_decay", {"num_decay_steps": 1, "decay_type": "sideways"}),
    ],
)
def test_values_of_which_no_schedule_can_be_made_are_one_message(tmp_path, schedule, given):
    settings = {"max_steps": 2, "lr_scheduler_type": schedule, "lr_scheduler_kwargs": given}
    trainer = trainer_in(tmp_path, eval_strategy="no", learning_rate=1.0, **settings)
    with pytest.raises(ConfigError, match=rf"train.lr_scheduler_kwargs: {schedule} cannot be made of these"):
        trainer.train()
