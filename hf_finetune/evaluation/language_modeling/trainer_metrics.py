"""The Trainer's metrics for causal language models: loss, perplexity, token accuracy and bits per byte."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, Protocol

import numpy as np
import torch
from datasets import Dataset
from torch.nn.functional import cross_entropy
from transformers import EvalPrediction, Trainer

from hf_finetune.data.tokenization.text import IGNORE_INDEX
from hf_finetune.evaluation.language_modeling.by_row import measure_texts, sum_by_row
from hf_finetune.evaluation.language_modeling.metrics import compute_language_metrics, make_language_statistic
from hf_finetune.evaluation.statistics.bootstrap import Array, Groups
from hf_finetune.evaluation.statistics.intervals import compute_intervals

# Logits of one chunk: 64 MiB in float32, for any batch size, length and vocabulary.
CHUNK_LOGITS = 2**24


@torch.no_grad()
def reduce_logits(logits: torch.Tensor | tuple[torch.Tensor, ...], labels: torch.Tensor) -> torch.Tensor:
    """Reduce logits to the sums that the metrics need: the Trainer's `preprocess_logits_for_metrics`.

    `logits`: (batch, seq, vocab), or a tuple that begins with them; `labels`: (batch, seq), -100 is ignored. Logits are
    of the next token. Returns (batch, 3): sum of the negative log-likelihoods in nats, correct predictions, predicted
    tokens; in float32, or in float64 if the logits are.
    """
    # Without it the Trainer gathers and keeps every logit of the evaluation: 1,000 rows of 1,024 tokens of a
    # vocabulary of 32,000 are 131 GB. It drops the rows that pad the last batch of several processes by itself.
    scores = logits[0] if isinstance(logits, tuple) else logits  # hidden states and auxiliary outputs may follow
    scores, targets = scores[:, :-1], labels[:, 1:]  # (batch, seq - 1, vocab), (batch, seq - 1)
    batch, length, vocab = scores.shape
    sums = torch.zeros(batch, 3, dtype=torch.promote_types(scores.dtype, torch.float32), device=scores.device)
    positions = max(1, min(length, CHUNK_LOGITS // vocab))
    rows = max(1, CHUNK_LOGITS // (vocab * positions))
    for row in range(0, batch, rows):
        for position in range(0, length, positions):
            here = (slice(row, row + rows), slice(position, position + positions))
            sums[row : row + rows] += _reduce(scores[here].to(sums.dtype), targets[here])
    return sums


def _reduce(scores: torch.Tensor, targets: torch.Tensor) -> torch.Tensor:
    """(rows, positions, vocab), (rows, positions) -> (rows, 3)."""
    counted = targets != IGNORE_INDEX
    flat = cross_entropy(scores.flatten(0, 1), targets.flatten(), ignore_index=IGNORE_INDEX, reduction="none")
    correct = scores.argmax(dim=-1) == targets  # False at ignored labels: no token has the id -100
    columns = [flat.view_as(targets).sum(dim=1), correct.sum(dim=1), counted.sum(dim=1)]
    return torch.stack([column.to(scores.dtype) for column in columns], dim=1)  # (rows, 3)


class CountedText(Protocol):
    """What became of the rows of a split, as far as their metrics need it."""

    @property
    def rows(self) -> int:
        """Rows of the split, those included that were left out."""
        ...

    @property
    def scored_bytes(self) -> int:
        """UTF-8 bytes of the text that is predicted: the denominator of bits per byte."""
        ...


def language_model_metrics(split: CountedText | None) -> Callable[[EvalPrediction], dict[str, float]] | None:
    """Make the Trainer's `compute_metrics` for predictions from `reduce_logits`, (rows, 3); None without a split.

    Every token counts the same, for any number of processes and any batch size; `loss` replaces the Trainer's, which is
    a mean of batch means and leaves out batches that are not finite. NaN stays NaN.
    """
    if split is None:
        return None

    def compute_metrics(prediction: EvalPrediction) -> dict[str, float]:
        sums = np.asarray(prediction.predictions, dtype=np.float64)
        # Which example is of which row, and the words of each, are not known here; only sums over all count.
        return compute_language_metrics(sums, np.array([split.scored_bytes]), np.zeros(1))

    return compute_metrics


def score_split(trainer: Trainer, rows: Dataset, split: CountedText) -> dict[str, Any]:
    """Compute the metrics of `rows`, with intervals, for the report; every rank calls it and gets all."""
    return score_sums(predict_sums(trainer, rows), rows, split)


def predict_sums(trainer: Trainer, rows: Dataset) -> Array:
    """Compute the sums of each example, (examples, 3) float64, in the order of `rows`; every rank gets all.

    The columns are those of `reduce_logits`.
    """
    predictions = np.asarray(trainer.predict(rows).predictions, dtype=np.float64)  # in the order of the sampler
    sampler = trainer._get_eval_sampler(rows)
    sums = np.empty_like(predictions)
    sums[np.arange(len(rows)) if sampler is None else list(sampler)] = predictions
    return sums


def score_sums(sums: Array, examples: Dataset, split: CountedText, groups: Groups | None = None) -> dict[str, Any]:
    """Compute the metrics of the sums of the examples of a split, (examples, 3), with intervals, for the report.

    Documents or conversations are resampled, each with the bytes of its own text, whatever it was cut into, or the
    `groups` that they come in: the group of each, (rows,).
    """
    parts = group_by_row(sums, examples, split)
    return {
        **compute_language_metrics(*parts),
        **compute_intervals(make_language_statistic(*parts), split.rows, groups=groups),
    }


def group_by_row(sums: Array, examples: Dataset, split: CountedText) -> tuple[Array, Array, Array]:
    """Return the sums of each row, (rows, 3), and the bytes and words of its text, (rows,) each."""
    sizes = measure_texts(examples, split.rows)
    return sum_by_row(sums, examples, split.rows), sizes.row_bytes, sizes.row_words
