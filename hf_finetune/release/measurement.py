"""What two forms of one model say to the same rows: their logits and mean losses, and how far these are apart."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from peft import PeftModel
from torch import Tensor
from transformers import PreTrainedModel

from hf_finetune.environment import ProgressLines
from hf_finetune.label_set import Labels
from hf_finetune.release.comparison_rows import ComparisonRow

# Positions per row whose logits are kept, evenly spaced: 64 rows of 1,024 positions and 128k logits would be 34 GB.
POSITIONS = 8


@dataclass(frozen=True, slots=True)
class Measurement:
    logits: list[Tensor]
    """One tensor per row, (positions, vocab), or (num_labels,) of a classifier; float32 on the CPU."""
    loss: float
    """Mean over the predicted tokens, of a classifier over the rows."""


@torch.no_grad()
def measure(
    compute: Callable[[ComparisonRow], Tensor], rows: Sequence[ComparisonRow], labels: Labels | None
) -> Measurement:
    """Measure the loss of each row, one row at a time: padding would change it by rounding.

    `compute` returns a row's logits, float32 on the CPU: (seq, vocab), or (num_labels,) of a classifier.
    """
    logits, total, count = [], 0.0, 0
    progress = ProgressLines("rows measured", len(rows))
    for row in rows:
        found = compute(row)
        if labels is not None:
            total, count = total + _compute_loss(found, row.labels[0], labels).item(), count + 1
        else:
            targets = row.labels[0, 1:]
            total += F.cross_entropy(found[:-1], targets, reduction="sum").item()
            count += int((targets >= 0).sum())
            # A copy: a view would keep the logits of the whole row.
            found = found[:: max(1, len(found) // POSITIONS)].clone()
        logits.append(found)
        progress.log_if_due(len(logits))
    return Measurement(logits, total / max(count, 1))


def measure_model(
    model: PreTrainedModel | PeftModel, rows: Sequence[ComparisonRow], labels: Labels | None
) -> Measurement:
    """Measure a model of transformers."""

    def compute(row: ComparisonRow) -> Tensor:
        inputs = {name: ids.to(model.device) for name, ids in row.inputs.items()}
        logits: Tensor = model(**inputs).logits[0].float().cpu()
        return logits

    return measure(compute, rows, labels)


def _compute_loss(logits: Tensor, target: Tensor, labels: Labels) -> Tensor:
    """Compute a classifier's loss of one row -> (). `logits`: (num_labels,); `target`: (), or (num_labels,)."""
    if labels.kind == "single":
        return F.cross_entropy(logits, target)
    if labels.kind == "multi":
        return F.binary_cross_entropy_with_logits(logits, target)
    return F.mse_loss(logits, target.reshape(logits.shape))


def find_largest_difference(before: Measurement, after: Measurement) -> float:
    """Find the largest difference of two logits of the same row and place; NaN where one of them is."""
    pairs = zip(before.logits, after.logits, strict=True)
    return torch.stack([(one - other).abs().max() for one, other in pairs]).max().item()


def compute_relative_difference(before: float, after: float) -> float:
    """Compute how far the loss `after` is from that `before`, as a share of it."""
    return abs(after - before) / max(abs(before), 1e-12)


def find_scale(measured: Measurement) -> float:
    """Find the size of the largest logit, by which rounding counts; at least 1."""
    return max(1.0, max(logits.abs().max().item() for logits in measured.logits))
