"""The metrics of a language model over rows of text, and for many resamples of the rows at once."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import numpy.typing as npt

from hf_finetune.evaluation.metrics.language_functions import (
    compute_bits_per_byte,
    compute_cross_entropy,
    compute_perplexity,
    compute_token_accuracy,
)
from hf_finetune.evaluation.statistics.bootstrap import Statistic

Array = npt.NDArray[np.float64]


def compute_language_metrics(sums: Array, row_bytes: Array, row_words: Array) -> dict[str, float]:
    """Compute loss, perplexity per token and per word, token accuracy and bits per byte of all rows together.

    `sums` (rows, 3) are those of `reduce_logits`; `row_bytes` and `row_words`, (rows,) each, are the UTF-8 bytes and
    the words between white space of the text that was predicted. Without any word there is no perplexity per word.
    The sums are exact, so that the order of the rows, and the number of processes, changes no bit.
    """
    nll_sums, correct, tokens = np.asarray(sums, dtype=np.float64).reshape(-1, 3).T
    total_words = np.asarray(row_words).astype(np.int64).sum() if np.any(row_words) else None
    found = _compute_metrics(math.fsum(nll_sums), correct.sum(), tokens.sum(), int(np.sum(row_bytes)), total_words)
    return {name: float(value) for name, value in found.items()}


def make_language_statistic(sums: Array, row_bytes: Array, row_words: Array) -> Statistic:
    """Make `compute_language_metrics` a function of row weights: (rows, resamples) -> (resamples,) each.

    A metric is NaN for a resample in which the tokens, words or bytes that it divides by are 0.
    """
    # Rows of 10 and 30 nats over 5 and 10 tokens, the first taken twice: weights [2, 1], loss (20 + 30) / (10 + 10).
    parts = np.stack([*np.asarray(sums, dtype=np.float64).reshape(-1, 3).T, row_bytes, row_words])  # (5, rows)
    has_words = bool(np.any(row_words))

    def statistic(weights: Array) -> dict[str, Array]:  # (rows, resamples) -> (resamples,) each
        nll, correct, tokens, total_bytes, words = parts @ weights
        return _compute_metrics(nll, correct, tokens, total_bytes, words if has_words else None)

    return statistic


def _compute_metrics(nll: Any, correct: Any, tokens: Any, total_bytes: Any, words: Any | None) -> dict[str, Array]:
    """Compute the metrics of sums over rows: numbers, or (resamples,) each."""
    return {
        "loss": compute_cross_entropy(nll, tokens),
        "perplexity": compute_perplexity(nll, tokens),
        **({} if words is None else {"word_perplexity": compute_perplexity(nll, words)}),
        "token_accuracy": compute_token_accuracy(correct, tokens),
        "bits_per_byte": compute_bits_per_byte(nll, total_bytes),
    }
