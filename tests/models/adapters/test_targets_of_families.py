"""Which linear layers `all-linear` leaves out: those whose forward nothing calls, and routers."""

from __future__ import annotations

import pytest
import torch
from models.architectures import save_family
from transformers import AutoModelForCausalLM
from tuned_adapters import adapter_on

from hf_finetune.models.adapters.targets import list_linear_modules, list_unadaptable
from hf_finetune.models.loading import load_safely


@pytest.mark.parametrize(
    ("family", "left_out"),
    [
        ("mamba", {"mixer.dt_proj", "mixer.out_proj"}),
        ("falcon_h1", {"mamba.out_proj"}),
        ("jamba", {"mamba.dt_proj", "mamba.out_proj"}),
        ("phimoe", {"mlp.router"}),
        ("falcon", set()),  # a kind of linear layer of its own, which is one
        ("qwen3_next", set()),  # no Mamba, though it has a state
        ("llama", set()),
    ],
)
def test_all_linear_leaves_out_what_an_adapter_could_not_train(family, left_out, tmp_path):
    base = save_family(tmp_path / "base", family)
    model = load_safely(AutoModelForCausalLM, str(base), None)
    assert {".".join(name.split(".")[-2:]) for name in list_unadaptable(model)} == left_out
    assert not list_linear_modules(model) & list_unadaptable(model)
    adapted = adapter_on(base)
    trained = {name for name, weight in adapted.named_parameters() if weight.requires_grad}
    assert not any(f"{name}." in weight for name in left_out for weight in trained)
    assert set(adapted.base_model.targeted_module_names) <= list_linear_modules(model)
    ids = torch.arange(5, 25)[None]
    adapted(input_ids=ids, labels=ids).loss.backward()
    assert all(weight.grad is not None for weight in adapted.parameters() if weight.requires_grad)


def test_modules_that_the_run_excludes_stay_excluded(tmp_path):
    adapted = adapter_on(save_family(tmp_path / "base", "falcon_h1"), {"exclude_modules": ["q_proj"]})
    targeted = adapted.base_model.targeted_module_names
    assert targeted
    assert not any(name.endswith(("q_proj", "mamba.out_proj")) for name in targeted)
