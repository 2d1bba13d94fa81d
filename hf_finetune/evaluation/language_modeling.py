"""Loss, perplexity, token accuracy and bits per byte of a causal language model, through the Trainer."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import torch
from datasets import Dataset
from torch.nn.functional import cross_entropy
from transformers import EvalPrediction, Trainer

from hf_finetune.evaluation.bootstrap import Array, intervals_of
from hf_finetune.evaluation.language_figures import language_figures, language_statistic

IGNORE_INDEX = -100

# Logits that are worked on at once: 64 MiB in single precision, whatever the batch, length and vocabulary.
LOGITS_AT_ONCE = 2**24


@torch.no_grad()
def reduce_logits(logits: torch.Tensor | tuple[torch.Tensor, ...], labels: torch.Tensor) -> torch.Tensor:
    """Reduce logits to what the metrics need, before the Trainer gathers them: it would keep every logit else.

    Logits at a position are of the next token; labels of -100 are not counted. Each process reduces its own rows, and
    the Trainer drops the rows that only filled up the last batch.
    Returns (batch, 3): sum of the negative log-likelihoods in nats, right predictions, predicted tokens; in single
    precision, or in double where the logits are.
    """
    scores = logits[0] if isinstance(logits, tuple) else logits  # the logits come before states and auxiliary outputs
    scores, targets = scores[:, :-1], labels[:, 1:]  # (batch, seq - 1, vocab), (batch, seq - 1)
    batch, length, vocab = scores.shape
    sums = torch.zeros(batch, 3, dtype=torch.promote_types(scores.dtype, torch.float32), device=scores.device)
    positions = max(1, min(length, LOGITS_AT_ONCE // vocab))
    rows = max(1, LOGITS_AT_ONCE // (vocab * positions))
    for row in range(0, batch, rows):
        for position in range(0, length, positions):
            here = (slice(row, row + rows), slice(position, position + positions))
            sums[row : row + rows] += _reduce(scores[here].to(sums.dtype), targets[here])
    return sums


def _reduce(scores: torch.Tensor, targets: torch.Tensor) -> torch.Tensor:
    counted = targets != IGNORE_INDEX
    flat = cross_entropy(scores.flatten(0, 1), targets.flatten(), ignore_index=IGNORE_INDEX, reduction="none")
    correct = scores.argmax(dim=-1) == targets  # never where a label is ignored: no token has the id -100
    columns = [flat.view_as(targets).sum(dim=1), correct.sum(dim=1), counted.sum(dim=1)]
    return torch.stack([column.to(scores.dtype) for column in columns], dim=1)  # (rows, 3)


def language_model_metrics(total_bytes: int) -> Callable[[EvalPrediction], dict[str, float]]:
    """Make the Trainer's `compute_metrics` for rows that went through `reduce_logits`.

    `total_bytes` is the UTF-8 length of the evaluated text. Every token counts the same, in any number of processes
    and at any batch size; the `loss` takes the place of the Trainer's, which is a mean of the means of batches and
    leaves out batches that are not finite. NaN stays NaN.
    """
    return lambda prediction: language_figures(*_sums_and_sizes(prediction.predictions, total_bytes))


def score_split(trainer: Trainer, rows: Dataset, total_bytes: int) -> dict[str, Any]:
    """The same figures of `rows`, with intervals, as a report has them; every rank calls it and gets all.

    The bytes of a row, or of a block that packs some, are taken to be as many as its tokens have on average.
    """
    parts = _sums_and_sizes(trainer.predict(rows).predictions, total_bytes)
    return {**language_figures(*parts), "intervals": intervals_of(language_statistic(*parts), len(parts[0]))}


def _sums_and_sizes(predictions: Any, total_bytes: int) -> tuple[Array, Array, Array]:
    sums = np.asarray(predictions, dtype=np.float64)  # (rows, 3)
    tokens = sums[:, 2]
    return sums, total_bytes * tokens / max(1.0, tokens.sum()), np.zeros(len(sums))
