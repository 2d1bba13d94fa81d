from __future__ import annotations

import pytest
import torch
from datasets import Dataset
from torch import nn
from transformers import TrainingArguments, default_data_collator
from tuned_adapters import adapter_on, saved_base

from hf_finetune.errors import ModelError, NonFiniteError
from hf_finetune.training.callbacks.guard import TrainingGuard
from hf_finetune.training.trainers.base import Trainer

IDS = [[3 + (row * 7 + place) % 50 for place in range(16)] for row in range(32)]
ROWS = Dataset.from_dict({"input_ids": IDS, "labels": IDS})


@pytest.fixture
def base(tmp_path):
    return saved_base(tmp_path / "base")


@pytest.fixture
def fit(tmp_path):
    def run(model, **settings):
        settings = {"max_steps": 6, "learning_rate": 1e-3, "lr_scheduler_type": "constant"} | settings
        args = TrainingArguments(
            str(tmp_path / "run"),
            per_device_train_batch_size=2,
            use_cpu=True,
            report_to="none",
            save_strategy="no",
            disable_tqdm=True,
            logging_strategy="no",
            dataloader_pin_memory=False,
            **settings,
        )
        guard = TrainingGuard()
        Trainer(model, args, train_dataset=ROWS, data_collator=default_data_collator, callbacks=[guard]).train()
        return guard

    return run


@pytest.mark.parametrize(
    "settings",
    [{}, {"gradient_accumulation_steps": 3}, {"max_steps": 2}, {"warmup_steps": 3, "lr_scheduler_type": "linear"}],
)
@pytest.mark.parametrize("lora", [{}, {"init_lora_weights": "pissa", "modules_to_save": ["lm_head"]}])
def test_a_run_that_trains_all_that_it_should_passes(base, fit, lora, settings):
    fit(adapter_on(base, lora), **settings)


def test_full_fine_tuning_passes_by_its_gradients_alone(base, fit):
    fit(adapter_on(base).unload().requires_grad_(True))


def test_a_trained_weight_that_no_gradient_reaches_stops_the_run(base, fit):
    model = adapter_on(base)

    class Beside(nn.Module):
        """A layer whose adapter is passed by, as checkpointing without input gradients does (peft 0.21, faults C6)."""

        def __init__(self, layer):
            super().__init__()
            self.layer = layer

        def forward(self, hidden):
            return self.layer.base_layer(hidden)

    for layer in model.base_model.model.model.layers:
        layer.self_attn.q_proj = Beside(layer.self_attn.q_proj)
    with pytest.raises(ModelError, match=r"4 trained weights .* no gradient reaches them.*q_proj.*lora_A") as refused:
        fit(model)
    assert refused.value.exit_code == 2


def test_a_lora_b_that_does_not_move_stops_the_run_after_five_steps(base, fit):
    model = adapter_on(base)
    still = [p for name, p in model.named_parameters() if "layers.1" in name and "v_proj.lora_B" in name]
    for parameter in still:
        parameter.register_hook(torch.zeros_like)
    with pytest.raises(ModelError, match=r"1 trained weights .* have not moved in 5 steps.*layers\.1.*v_proj.*lora_B"):
        fit(model)
    with pytest.raises(ModelError, match="have not moved in 2 steps"):  # at the end, where that comes first
        fit(model, max_steps=2)


def test_more_than_three_names_are_counted(base, fit):
    model = adapter_on(base)
    for name, parameter in model.named_parameters():
        if "lora_B" in name:
            parameter.register_hook(torch.zeros_like)
    with pytest.raises(ModelError, match=r"12 trained weights") as refused:
        fit(model)
    assert str(refused.value).count("lora_B") == 3


def test_steps_whose_learning_rate_is_0_are_not_counted(base, fit):
    guard = fit(adapter_on(base), max_steps=1, warmup_steps=1, lr_scheduler_type="linear")
    assert guard._first.steps == 0


@pytest.mark.parametrize("max_grad_norm", [0.0, 1.0])
def test_a_gradient_that_is_not_finite_stops_the_run_before_the_weights_have_it(base, fit, max_grad_norm):
    model = adapter_on(base)
    poisoned = next(p for name, p in model.named_parameters() if "lora_A" in name)
    poisoned.register_hook(lambda gradient: torch.full_like(gradient, float("inf")))
    before = {name: p.clone() for name, p in model.named_parameters()}
    with pytest.raises(
        NonFiniteError, match="step 1 was stopped before the optimizer took it: the gradient is not finite"
    ) as refused:
        fit(model, max_grad_norm=max_grad_norm)
    assert refused.value.exit_code == 4
    assert all(torch.equal(before[name], p) for name, p in model.named_parameters())
