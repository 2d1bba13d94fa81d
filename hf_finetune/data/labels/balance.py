"""Imbalanced classes: resampled training rows, or class weights for the loss."""

from __future__ import annotations

import logging
from collections.abc import Mapping
from typing import Any

import numpy as np
import numpy.typing as npt

from hf_finetune.data.labels.freeze import MAX_COUNTS_LOGGED
from hf_finetune.data.splitting.assignment import Rows
from hf_finetune.errors import ConfigError, Problem
from hf_finetune.label_set import Labels
from hf_finetune.metric_info import say_count

logger = logging.getLogger(__name__)

Weights = npt.NDArray[np.float32]


def select_balanced_rows(
    labels: Labels, encoded: npt.NDArray[Any], balance: str | Mapping[str, float], seed: int
) -> Rows:
    """Select the rows to train on: ascending row numbers, all of them unless `balance` samples.

    undersample: as many rows of each label as the rarest has, a seeded sample. oversample: as many as the most frequent
    has, each row at least once. `encoded`: (rows,), or (rows, labels) for multi-label rows, for which sampling raises
    ConfigError.
    """
    if not isinstance(balance, str) or balance not in ("undersample", "oversample"):
        return np.arange(len(encoded), dtype=np.int64)
    if labels.kind != "single":
        what = f"{balance} needs rows of one label each: a row left out or repeated changes all of its labels"
        raise ConfigError(Problem(what, "write weights or focal", key="data.balance", code="HF309"))
    counts = np.bincount(encoded, minlength=len(labels.names))
    wanted = int(counts.min() if balance == "undersample" else counts.max())
    random = np.random.default_rng(seed)
    chosen = [_resample(np.flatnonzero(encoded == number), wanted, random) for number in range(len(labels.names))]
    before = ", ".join(f"{name} {count:,}" for name, count in zip(labels.names, counts, strict=True))
    rows = say_count(wanted, "training row")
    logger.info("data.balance is %s: %s of each label, where there were %s", balance, rows, before)
    return np.sort(np.concatenate(chosen))


def _resample(rows: Rows, wanted: int, random: np.random.Generator) -> Rows:
    """Resample `rows` (rows,) to `wanted` rows, each as often as any other or once more: (wanted,)."""
    # 3 rows for 8: each twice, and a random 2 of them once more.
    whole, rest = divmod(wanted, len(rows))
    return np.concatenate([np.tile(rows, whole), random.permutation(rows)[:rest]])


def compute_class_weights(
    labels: Labels, encoded: npt.NDArray[Any], balance: str | Mapping[str, float]
) -> Weights | None:
    """Compute the weights of the labels in the loss, float32 (labels,); None where `balance` asks for none.

    Single label: rows / (labels * rows of the label), as in scikit-learn's "balanced", or the given ones, scaled to a
    mean of 1 over the training rows, which keeps the scale of the learning rate. Multi-label: the `pos_weight` of
    BCEWithLogitsLoss, rows without the label / rows with it, or the given ones. `encoded`: (rows,) or (rows, labels).
    """
    # 3 rows of "a" and 1 of "b": weights 4/6 and 4/2, whose mean over the 4 rows is 1.
    if balance != "weights" and not isinstance(balance, Mapping):
        return None
    rows = len(encoded)
    given = np.array([balance[name] for name in labels.names]) if isinstance(balance, Mapping) else None
    if labels.kind == "multi":
        positives = encoded.sum(axis=0, dtype=np.float64)
        # At least 1 row: a label that every row has would get the weight 0, and never be learned.
        weights = np.maximum(rows - positives, 1) / positives if given is None else given
    else:
        counts = np.bincount(encoded, minlength=len(labels.names))
        weights = 1 / counts if given is None else given
        weights = weights * rows / (weights * counts).sum()
    shown = [f"{name} {weight:.3g}" for name, weight in zip(labels.names, weights, strict=True)]
    shown = shown[:MAX_COUNTS_LOGGED] + (["..."] if len(shown) > MAX_COUNTS_LOGGED else [])
    logger.info("weights of the labels in the loss: %s", ", ".join(shown))
    return weights.astype(np.float32)
