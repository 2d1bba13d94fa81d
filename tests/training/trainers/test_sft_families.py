"""The loss of SFTTrainer on architectures whose heads and experts TRL's fused one does not know."""

from __future__ import annotations

import json

import pytest
import torch
from datasets import Dataset
from models.architectures import save_family
from training.trainers.sft_runs import ONE_SGD_STEP, trainer_of
from transformers import AutoModelForCausalLM

from hf_finetune.training.trainers.sft import compare_fused_head

IDS = [[5 + (row * 7 + place) % 40 for place in range(12)] for row in range(4)]
ROWS = Dataset.from_dict({"input_ids": IDS, "labels": IDS})
MIXTURES = ("phimoe", "granitemoe", "qwen2_moe", "granitemoehybrid")


def load(folder, family):
    return AutoModelForCausalLM.from_pretrained(save_family(folder, family))


@pytest.mark.parametrize(
    ("family", "right"),
    # A prediction head before the output head; a soft cap under another name; scales and caps that TRL knows.
    [("modernbert-decoder", False), ("recurrent_gemma", False), ("gemma2", True), ("granite", True), ("cohere", True)],
)
def test_a_fused_head_that_leaves_something_out_is_noticed_and_not_used(family, right, tmp_path):
    model = load(tmp_path / "base", family)
    trainer = trainer_of(model, tmp_path / "run", ROWS)
    trainer._scores_on_cpu = False  # as on a GPU
    assert compare_fused_head(model.eval(), torch.device("cpu"), routed=False) is right
    inputs = {"input_ids": torch.tensor(IDS), "labels": torch.tensor(IDS)}
    loss = trainer.compute_loss(model, dict(inputs))
    with torch.no_grad():
        plain = AutoModelForCausalLM.from_pretrained(tmp_path / "base").eval()(**inputs).loss
    torch.testing.assert_close(loss.detach(), plain, atol=1e-6, rtol=1e-6)


@pytest.mark.parametrize("family", MIXTURES)
def test_a_mixture_of_experts_takes_the_step_of_its_own_loss_and_keeps_its_configuration(family, tmp_path):
    model = load(tmp_path / "base", family)
    trainer = trainer_of(
        model,
        tmp_path / "run",
        ROWS,
        max_steps=1,
        per_device_train_batch_size=4,
        router_aux_loss_coef=0.5,
        **ONE_SGD_STEP,
    )
    trainer.train()
    trainer.save_model()
    plain = AutoModelForCausalLM.from_pretrained(tmp_path / "base").train()
    plain.router_aux_loss_coef = 0.5
    ids = torch.tensor(IDS)
    plain(ids, labels=ids, attention_mask=torch.ones_like(ids), output_router_logits=True).loss.backward()
    saved = AutoModelForCausalLM.from_pretrained(tmp_path / "run").state_dict()
    for name, weight in plain.named_parameters():
        torch.testing.assert_close(saved[name], weight.detach() - weight.grad, atol=1e-5, rtol=1e-4, msg=name)
    stored, after = (json.loads((tmp_path / folder / "config.json").read_text()) for folder in ("base", "run"))
    for key in ("output_router_logits", "router_aux_loss_coef"):
        assert stored.get(key) == after.get(key)
