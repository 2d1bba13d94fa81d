from __future__ import annotations

import pytest
import torch
from torch.nn.functional import cross_entropy

from hf_finetune.training.trainers import token_loss
from hf_finetune.training.trainers.token_loss import token_losses

TOKENS, VOCABULARY = 7, 50


@pytest.fixture
def few_at_once(monkeypatch):
    """Pieces of three tokens, and a last one of a single token."""
    monkeypatch.setattr(token_loss, "FEW", 0)
    monkeypatch.setattr(token_loss, "AT_ONCE", 3 * VOCABULARY + 1)


def losses_and_gradients(compute, logits, targets, factors):
    logits = logits.clone().requires_grad_()
    losses = compute(logits, targets)
    (losses * factors).sum().backward()
    return losses.detach(), logits.grad


def plain(logits, targets):
    return cross_entropy(logits.float(), targets, reduction="none")


@pytest.mark.parametrize("scale", [1.0, 300.0], ids=["small logits", "logits whose exponents overflow"])
@pytest.mark.parametrize(("dtype", "tolerance"), [(torch.float32, 1e-5), (torch.bfloat16, 4e-3)])
def test_losses_and_gradients_by_pieces_are_those_of_cross_entropy(few_at_once, dtype, tolerance, scale):
    torch.manual_seed(0)
    logits = (scale * torch.randn(TOKENS, VOCABULARY)).to(dtype)
    targets, factors = torch.randint(VOCABULARY, (TOKENS,)), torch.rand(TOKENS)
    losses, gradients = losses_and_gradients(token_losses, logits, targets, factors)
    expected_losses, expected = losses_and_gradients(plain, logits, targets, factors)
    torch.testing.assert_close(losses, expected_losses, rtol=1e-5, atol=1e-5)
    assert (losses.dtype, gradients.dtype) == (torch.float32, dtype)
    assert (gradients.float() - expected.float()).norm() <= tolerance * expected.float().norm()


def test_what_is_kept_for_the_gradients_is_the_logits_alone(few_at_once):
    kept = []
    logits = torch.randn(TOKENS, VOCABULARY).bfloat16().requires_grad_()
    with torch.autograd.graph.saved_tensors_hooks(lambda each: kept.append(each) or each, lambda each: each):
        token_losses(logits, torch.zeros(TOKENS, dtype=torch.long))
    large = [each for each in kept if each.numel() >= logits.numel()]
    assert [each.data_ptr() for each in large] == [logits.data_ptr()]


def test_a_loss_that_is_no_number_stays_one(few_at_once):
    logits = torch.randn(TOKENS, VOCABULARY)
    logits[2, 4] = torch.nan
    losses = token_losses(logits, torch.zeros(TOKENS, dtype=torch.long))
    assert losses.isnan().tolist() == [number == 2 for number in range(TOKENS)]


def test_no_tokens_have_no_losses(few_at_once):
    assert token_losses(torch.zeros(0, VOCABULARY), torch.zeros(0, dtype=torch.long)).shape == (0,)
