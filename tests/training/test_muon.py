from __future__ import annotations

import copy

import pytest
import torch
from models.scratch_models import tiny_model
from torch import nn

from hf_finetune.errors import ConfigError
from hf_finetune.models.scratch_gpt import ScratchGPTForCausalLM, ScratchGPTForSequenceClassification
from hf_finetune.training.muon import MuonFactory, MuonWithAdamW, _parse_muon_options, orthogonalize


def matrices_and_gradients(seed: int) -> list[nn.Parameter]:
    generator = torch.Generator().manual_seed(seed)
    shapes = [(16, 16), (16, 16), (16, 64), (64, 16)]
    params = [nn.Parameter(torch.randn(shape, generator=generator)) for shape in shapes]
    for param in params:
        param.grad = torch.randn(param.shape, generator=generator)
    return params


def test_one_batched_muon_step_equals_torch_muon_on_each_matrix():
    ours = matrices_and_gradients(0)
    theirs = copy.deepcopy(ours)
    for param, other in zip(ours, theirs, strict=True):
        other.grad = param.grad.clone()
    groups = [{"params": ours, "use_muon": True, "weight_decay": 0.1}]
    optimizer = MuonWithAdamW(groups, lr=0.02, momentum=0.95, compute_dtype=torch.bfloat16)
    peer = torch.optim.Muon(theirs, lr=0.02, weight_decay=0.1, momentum=0.95, adjust_lr_fn="match_rms_adamw")
    for _ in range(3):
        optimizer.step()
        peer.step()
    for param, other in zip(ours, theirs, strict=True):
        # Both iterate in bfloat16, one in a batch and one alone; a wrong scale or momentum is off by far more.
        torch.testing.assert_close(param, other, atol=2e-3, rtol=0)


def test_without_muon_it_is_adamw_also_for_a_parameter_whose_first_gradient_comes_later():
    ours = matrices_and_gradients(1)
    theirs = copy.deepcopy(ours)
    settings = {"lr": 0.01, "betas": (0.9, 0.95), "eps": 1e-8, "weight_decay": 0.1}
    optimizer = MuonWithAdamW([{"params": ours, "use_muon": False}], **settings)
    peer = torch.optim.AdamW(theirs, **settings, foreach=True)
    for step in range(4):
        for index, (param, other) in enumerate(zip(ours, theirs, strict=True)):
            param.grad = torch.full_like(param, 0.1 * (step + 1)) if step >= index else None
            other.grad = None if param.grad is None else param.grad.clone()
        optimizer.step()
        peer.step()
    assert all(torch.equal(param, other) for param, other in zip(ours, theirs, strict=True))


def test_orthogonalised_matrices_have_singular_values_near_one():
    directions = orthogonalize(torch.randn(3, 32, 96, generator=torch.Generator().manual_seed(0)), torch.float32)
    values = torch.linalg.svdvals(directions)
    assert values.min() > 0.5
    assert values.max() < 1.3


def test_resuming_from_the_state_dict_continues_bit_for_bit():
    whole = matrices_and_gradients(2)
    groups = [{"params": whole[:3], "use_muon": True}, {"params": whole[3:], "use_muon": False}]
    optimizer = MuonWithAdamW(groups, lr=0.02)
    optimizer.step()
    resumed = [nn.Parameter(param.detach().clone()) for param in whole]
    for param, other in zip(whole, resumed, strict=True):
        other.grad = param.grad.clone()
    again = MuonWithAdamW([{"params": resumed[:3], "use_muon": True}, {"params": resumed[3:]}], lr=0.02)
    again.load_state_dict(copy.deepcopy(optimizer.state_dict()))
    optimizer.step()
    again.step()
    assert all(torch.equal(param, other) for param, other in zip(whole, resumed, strict=True))


def is_hidden(name: str, weight: torch.Tensor) -> bool:
    return weight.ndim == 2 and ".layers." in f".{name}"


@pytest.mark.parametrize("model_class", [ScratchGPTForCausalLM, ScratchGPTForSequenceClassification])
@pytest.mark.parametrize("tied", [True, False])
def test_every_trained_parameter_is_in_exactly_one_group_and_only_hidden_matrices_in_muons(model_class, tied):
    model = tiny_model(model_class, tie_word_embeddings=tied)
    model.model.norm.weight.requires_grad = False
    optimizer = MuonFactory()(model, lr=0.01, weight_decay=0.1)
    grouped = [id(param) for group in optimizer.param_groups for param in group["params"]]
    assert sorted(grouped) == sorted(id(param) for param in model.parameters() if param.requires_grad)
    muon = [param for group in optimizer.param_groups if group["use_muon"] for param in group["params"]]
    hidden = [weight for name, weight in model.named_parameters() if is_hidden(name, weight)]
    assert sorted(map(id, muon)) == sorted(map(id, hidden))
    assert hidden


def test_an_option_that_muon_does_not_have_is_refused():
    with pytest.raises(ConfigError, match=r"train.optim_args: 'momentom' is no option of muon"):
        _parse_muon_options("momentom=0.9")
