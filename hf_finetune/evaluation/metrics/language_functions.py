"""The formulas of a language model's metrics, of sums over rows: numbers, or (resamples,) each.

NaN where a sum is NaN or the denominator is 0.
"""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import numpy.typing as npt

Array = npt.NDArray[np.float64]


def compute_cross_entropy(nll: Any, tokens: Any) -> Array:
    """Compute the mean negative log-likelihood of a token in nats: (resamples,) -> (resamples,)."""
    return _divide(nll, tokens)


def compute_perplexity(nll: Any, units: Any) -> Array:
    """Compute the perplexity per token or word: (resamples,) -> (resamples,), infinite beyond the largest float."""
    with np.errstate(over="ignore"):
        return np.asarray(np.exp(_divide(nll, units)))


def compute_token_accuracy(correct: Any, tokens: Any) -> Array:
    """Compute the share of tokens that were predicted correctly: (resamples,) -> (resamples,)."""
    return _divide(correct, tokens)


def compute_bits_per_byte(nll: Any, total_bytes: Any) -> Array:
    """Compute the negative log-likelihood per UTF-8 byte in bits, from nats: (resamples,) -> (resamples,)."""
    return _divide(nll / math.log(2), total_bytes)


def _divide(top: Any, bottom: Any) -> Array:
    """(resamples,) each -> (resamples,); NaN where the denominator is 0."""
    shape = np.broadcast(top, bottom).shape
    return np.asarray(np.divide(top, bottom, out=np.full(shape, np.nan), where=np.asarray(bottom) > 0))
