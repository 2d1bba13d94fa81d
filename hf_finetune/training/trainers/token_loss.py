"""The negative log-likelihood of tokens, of logits that are held once."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable
from torch.nn.functional import cross_entropy

# So many logits are as quick in pieces as by PyTorch, whose copies then take 16 MiB each; fewer are slower.
FEW = 2**22
# Logits that are looked at together; in float32 4 MiB, which a core's cache nearly holds.
AT_ONCE = 2**20


def token_losses(logits: Tensor, targets: Tensor) -> Tensor:
    """Compute the negative log-likelihood of `targets`, (tokens,), in float32; `logits` are (tokens, vocab)."""
    # On a GPU each piece would be launched by itself, and few logits are computed quickest as a whole.
    if logits.device.type != "cpu" or logits.numel() <= FEW:
        return cross_entropy(logits.float(), targets, reduction="none")
    losses: Tensor = _PieceByPiece.apply(logits, targets)  # type: ignore[no-untyped-call]
    return losses


class _PieceByPiece(torch.autograd.Function):
    """`cross_entropy` a few tokens at a time: beside the logits, only their gradients are ever held, in their dtype."""

    # Of 16-bit logits PyTorch holds a copy in float32, the log-probabilities, and the gradient of both: a vocabulary of
    # 49,152 takes 9 times the memory of its logits.

    @staticmethod
    def forward(ctx: Any, logits: Tensor, targets: Tensor) -> Tensor:
        """(tokens, vocab) and (tokens,) -> (tokens,) float32."""
        rows = _count_rows(logits)
        losses, sums = [], []
        for piece, wanted in zip(torch.split(logits, rows), torch.split(targets, rows), strict=True):
            values = piece.float()
            largest = values.amax(dim=-1)
            log_sum = (values - largest[:, None]).exp_().sum(dim=-1).log_()
            losses.append(log_sum - (values.gather(-1, wanted[:, None])[:, 0] - largest))
            sums.append(log_sum + largest)
        ctx.save_for_backward(logits, targets, torch.cat(sums))
        return torch.cat(losses)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, gradients: Tensor) -> tuple[Tensor, None]:
        """(tokens,) -> (tokens, vocab): probabilities, less 1 at the target, times the gradient of each loss."""
        logits, targets, sums = ctx.saved_tensors
        rows, found = _count_rows(logits), torch.empty_like(logits)
        whole: list[Tensor] = [found, logits, targets[:, None], sums[:, None], gradients[:, None]]
        for into, piece, wanted, log_sum, factor in zip(*(torch.split(each, rows) for each in whole), strict=True):
            values = (piece - log_sum).exp_()
            values.scatter_add_(-1, wanted, values.new_full(wanted.shape, -1.0))
            into.copy_(values.mul_(factor))
        return found, None


def _count_rows(logits: Tensor) -> int:
    return max(1, AT_ONCE // logits.shape[-1])
