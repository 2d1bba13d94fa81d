"""The Trainer of classifiers, and their loss."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Literal

import numpy.typing as npt
import torch
import torch.nn.functional as F
from torch import Tensor
from transformers.modeling_outputs import SequenceClassifierOutput

from hf_finetune.training.trainers import TrainerChecks

# Of focal loss (Lin et al., 2017, https://arxiv.org/abs/1708.02002), whose authors found it best.
GAMMA = 2.0


class ClassificationTrainer(TrainerChecks):
    """transformers' Trainer for rows that are tokens already; pass a `ClassificationLoss` as `compute_loss_func`."""

    def _set_signature_columns_if_needed(self) -> None:
        self._signature_columns = ["input_ids", "token_type_ids", "labels", "length"]  # type: ignore[assignment]

    def _get_num_items_in_batch(self, batch_samples: list[Any], device: torch.device) -> Tensor | int | None:
        # transformers takes a label of -100 for one that is not trained; a number to predict may be -100.
        counted = [{"labels": torch.zeros_like(batch["labels"])} for batch in batch_samples]
        items: Tensor | int | None = super()._get_num_items_in_batch(counted, device)
        return items


@dataclass(frozen=True)
class ClassificationLoss:
    """The mean loss over the labels of an optimizer step, whatever its micro-batches and processes.

    One label: cross entropy, a row weighted by its class. Several: binary cross entropy of each label, what has the
    label weighted (`pos_weight`). A number: the squared error. Weights do not change the divisor, so that batches add
    up; they have a mean of 1 over the training rows where there is one label.
    """

    kind: Literal["single", "multi", "number"]
    weights: npt.NDArray[Any] | None = None  # (labels,)
    balance: str | Mapping[str, float] = "none"
    """`data.balance`, of which `focal` is for the loss; the rest is in the weights or in the rows."""
    label_smoothing: float = 0.0

    def __call__(
        self,
        outputs: SequenceClassifierOutput,
        labels: Tensor,
        num_items_in_batch: Tensor | int | None = None,
    ) -> Tensor:
        """`labels` is (batch,), or (batch, labels) where a row may have several; logits are (batch, labels)."""
        logits: Any = outputs.logits
        losses = self._losses(logits.float(), labels)
        return losses.sum() / (losses.numel() if num_items_in_batch is None else num_items_in_batch)

    def _losses(self, logits: Tensor, labels: Tensor) -> Tensor:
        if self.kind == "number":
            return F.mse_loss(logits.squeeze(-1), labels.float(), reduction="none")
        weights = None if self.weights is None else torch.as_tensor(self.weights).to(logits)
        if self.kind == "multi":
            return self._of_each_label(logits, labels.to(logits), weights)
        losses = F.cross_entropy(logits, labels, reduction="none", label_smoothing=self.label_smoothing)
        if self.balance == "focal":
            right = logits.softmax(dim=-1).gather(-1, labels[:, None])[:, 0]
            losses = losses * (1 - right) ** GAMMA
        return losses if weights is None else losses * weights[labels]

    def _of_each_label(self, logits: Tensor, labels: Tensor, weights: Tensor | None) -> Tensor:
        targets = labels * (1 - self.label_smoothing) + self.label_smoothing / 2
        losses = F.binary_cross_entropy_with_logits(logits, targets, pos_weight=weights, reduction="none")
        if self.balance == "focal":
            likely = logits.sigmoid()
            right = likely * labels + (1 - likely) * (1 - labels)
            losses = losses * (1 - right) ** GAMMA
        return losses
