"""Trainer and loss for classifiers."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Literal

import numpy.typing as npt
import torch
import torch.nn.functional as F
from torch import Tensor
from transformers.modeling_outputs import SequenceClassifierOutput

from hf_finetune.data.tokenization.text import IGNORE_INDEX
from hf_finetune.training.trainers.base import TrainerMixin
from hf_finetune.training.trainers.repeated_rows import is_counted

# Exponent of the focal loss; 2 worked best in Lin et al., 2017, https://arxiv.org/abs/1708.02002.
GAMMA = 2.0


class ClassificationTrainer(TrainerMixin):
    """transformers' Trainer for tokenized rows; pass a `ClassificationLoss` as `compute_loss_func`."""

    predicts_tokens = False

    def _set_signature_columns_if_needed(self) -> None:
        self._signature_columns = ["input_ids", "token_type_ids", "labels", "length", "row", "rows"]  # type: ignore[assignment]

    def _get_num_items_in_batch(self, batch_samples: list[Any], device: torch.device) -> Tensor | int | None:
        # transformers 5.23 counts labels other than -100, but a regression target may be -100.
        counted = [{"labels": torch.where(is_counted(batch["labels"]), 0, IGNORE_INDEX)} for batch in batch_samples]
        items: Tensor | int | None = super()._get_num_items_in_batch(counted, device)
        return items


@dataclass(frozen=True)
class ClassificationLoss:
    """The mean loss over the labels of an optimizer step, however it is split into micro-batches and processes.

    "single": cross entropy, each row weighted by its class. "multi": binary cross entropy of each label, positives
    weighted (`pos_weight`). "number": squared error.
    """

    # Weights do not change the divisor, so that the losses of micro-batches add up: with weights (0.5, 1.5) and rows of
    # class 0 and 1 the loss is (0.5 l0 + 1.5 l1) / 2. For "single" the weights average 1 over the training rows.

    kind: Literal["single", "multi", "number"]
    weights: npt.NDArray[Any] | None = None  # (labels,)
    balance: str | Mapping[str, float] = "none"
    """`data.balance`: only `focal` changes the loss; the others act through `weights` or the rows."""
    label_smoothing: float = 0.0

    def __call__(
        self,
        outputs: SequenceClassifierOutput,
        labels: Tensor,
        num_items_in_batch: Tensor | int | None = None,
    ) -> Tensor:
        """Logits (batch, labels) and labels (batch,), or (batch, labels) for "multi" -> a scalar; blank ones cost 0."""
        logits: Any = outputs.logits
        counted = is_counted(labels)
        losses = self._compute_losses(logits.float(), torch.where(counted, labels, 0))
        losses = torch.where(counted, losses, 0)
        return losses.sum() / (losses.numel() if num_items_in_batch is None else num_items_in_batch)

    def _compute_losses(self, logits: Tensor, labels: Tensor) -> Tensor:
        """-> (batch,), or (batch, labels) for "multi"."""
        if self.kind == "number":
            return F.mse_loss(logits.squeeze(-1), labels.float(), reduction="none")
        weights = None if self.weights is None else torch.as_tensor(self.weights).to(logits)
        if self.kind == "multi":
            return self._compute_label_losses(logits, labels.to(logits), weights)
        losses = F.cross_entropy(logits, labels, reduction="none", label_smoothing=self.label_smoothing)
        if self.balance == "focal":
            # A row whose label has probability 0.9 counts 0.01 of its loss, one with 0.1 counts 0.81.
            correct = logits.softmax(dim=-1).gather(-1, labels[:, None])[:, 0]  # probability of the label, (batch,)
            losses = losses * (1 - correct) ** GAMMA
        return losses if weights is None else losses * weights[labels]

    def _compute_label_losses(self, logits: Tensor, labels: Tensor, weights: Tensor | None) -> Tensor:
        """Logits and labels (batch, labels), weights (labels,) -> (batch, labels)."""
        targets = labels * (1 - self.label_smoothing) + self.label_smoothing / 2
        losses = F.binary_cross_entropy_with_logits(logits, targets, pos_weight=weights, reduction="none")
        if self.balance == "focal":
            positive = logits.sigmoid()
            correct = positive * labels + (1 - positive) * (1 - labels)
            losses = losses * (1 - correct) ** GAMMA
        return losses
