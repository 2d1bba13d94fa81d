"""Loss, perplexity, token accuracy and bits per byte of a causal language model, through the Trainer."""

from __future__ import annotations

import tempfile
from collections.abc import Callable

import numpy as np
import torch
from torch.nn.functional import cross_entropy
from transformers import EvalPrediction

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

    # `evaluate` takes half a second to import, which a run without evaluation need not spend.
    from hf_finetune.evaluation.metrics.bits_per_byte import BitsPerByte
    from hf_finetune.evaluation.metrics.cross_entropy import CrossEntropy
    from hf_finetune.evaluation.metrics.perplexity import Perplexity
    from hf_finetune.evaluation.metrics.token_accuracy import TokenAccuracy

    def compute(prediction: EvalPrediction) -> dict[str, float]:
        nll_sums, correct, tokens = np.asarray(prediction.predictions, dtype=np.float64).T
        counts = {"correct": correct.astype(np.int64), "tokens": tokens.astype(np.int64)}
        sums = {"nll_sums": nll_sums, "tokens": counts["tokens"]}
        # A metric makes a folder even when it keeps everything in memory.
        with tempfile.TemporaryDirectory() as folder:
            kept = {"keep_in_memory": True, "cache_dir": folder}
            loss = CrossEntropy(**kept).compute(**sums)["cross_entropy"]
            return {
                "loss": loss,
                **Perplexity(**kept).compute(**sums),
                **TokenAccuracy(**kept).compute(**counts),
                **BitsPerByte(**kept).compute(nll_sums=nll_sums, total_bytes=total_bytes),
            }

    return compute
