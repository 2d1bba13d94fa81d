from __future__ import annotations

import copy

import pytest
import torch
from models.scratch_models import tiny_model
from peft import LoraConfig, get_peft_model
from torch import nn

from hf_finetune.errors import ConfigError
from hf_finetune.models.adapters.loading import suppress_peft_warnings
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


def test_beta1_is_adamws_and_holds_for_all_that_it_updates():
    model, options = tiny_model(), _parse_muon_options("beta1=0.8, embedding_lr=1")
    groups = MuonFactory()(model, lr=0.01, weight_decay=0.1, **options).param_groups
    assert [group["betas"] for group in groups] == [(0.8, 0.95)] * 3
    assert {group["betas"] for group in MuonFactory()(model, lr=0.01, weight_decay=0.1).param_groups} == {(0.9, 0.95)}


def groups_of(model: torch.nn.Module) -> dict[str, tuple[bool, float]]:
    """Of each trained parameter: whether it goes to Muon, and its weight decay."""
    optimizer = MuonFactory()(model, lr=0.01, weight_decay=0.1)
    names = {id(param): name for name, param in model.named_parameters()}
    return {
        names[id(param)]: (group["use_muon"], group["weight_decay"])
        for group in optimizer.param_groups
        for param in group["params"]
    }


def adapt(model: torch.nn.Module, config: LoraConfig) -> torch.nn.Module:
    with suppress_peft_warnings():
        return get_peft_model(model, config)


@pytest.mark.parametrize("kind", [ScratchGPTForCausalLM, ScratchGPTForSequenceClassification])
def test_under_an_adapter_head_and_embedding_go_where_they_go_in_a_full_run(kind):
    full = groups_of(tiny_model(kind))
    head = "lm_head" if kind is ScratchGPTForCausalLM else "score"
    task = "CAUSAL_LM" if kind is ScratchGPTForCausalLM else "SEQ_CLS"
    config = LoraConfig(r=2, target_modules="all-linear", modules_to_save=[head, "embed_tokens"], task_type=task)
    adapted = groups_of(adapt(tiny_model(kind), config))
    saved = {name.split(".modules_to_save.default")[0].split("base_model.model.")[1]: name for name in adapted
             if "modules_to_save" in name}  # fmt: skip
    assert {name.rpartition(".")[2] for name in saved} == {head, "embed_tokens"}
    for name, whole in saved.items():
        assert adapted[whole] == full[f"{name}.weight"] == (False, 0.0)
    factors = {name: group for name, group in adapted.items() if "lora_" in name}
    assert set(factors.values()) == {(True, 0.1)}


@pytest.mark.parametrize("settings", [{"target_modules": ["embed_tokens"]}, {"trainable_token_indices": [5, 7]}])
def test_what_an_adapter_trains_of_an_embedding_goes_to_adamw(settings):
    config = LoraConfig(r=2, task_type="CAUSAL_LM", **{"target_modules": ["q_proj"], **settings})
    adapted = groups_of(adapt(tiny_model(), config))
    parts = {name: group for name, group in adapted.items() if "embed_tokens" in name}
    assert parts
    assert set(parts.values()) == {(False, 0.0)}
