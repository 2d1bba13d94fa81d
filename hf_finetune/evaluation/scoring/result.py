"""The result of scoring a saved model, and what both kinds of model share in getting it."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
from transformers import PreTrainedModel

from hf_finetune.config.sections import Run
from hf_finetune.errors import NonFiniteError, Problem
from hf_finetune.evaluation.statistics.bootstrap import Array, Statistic
from hf_finetune.models.weights.parameters import count_parameters


@dataclass(frozen=True)
class ScoreResult:
    """The metrics of a model on the rows of a split, and what else the report has of them."""

    evaluation: dict[str, Any]
    """`evaluation` of the report."""
    statistic: Statistic
    """The metrics as a function of row weights; without those of the answers, if not every row was answered."""
    facts: dict[str, Any]
    """`data.test` of the report: rows, tokens, truncated, dropped."""
    parameters: dict[str, int]
    """`parameters` of the report: the model's by component."""


def get_model_path(run: Run) -> str:
    """Return the path or Hub id of the model to score."""
    assert run.model.path is not None  # `load_run` refuses a run without one
    return run.model.path


def count_by_component(model: PreTrainedModel) -> dict[str, int]:
    """Count the parameters by component, for the report; not the trainable ones, since nothing is trained."""
    counts = count_parameters(model).as_dict()
    del counts["trainable"]
    return counts


def check_finite(values: Array) -> None:
    """Raise `NonFiniteError`, with the number of rows, if any row of `values`, (rows, columns), is NaN or infinite.

    `values` are logits, or sums over the log-likelihoods that they give.
    """
    broken = int((~np.isfinite(values)).any(axis=1).sum())
    if broken:
        remedy = "load the model in another precision, or train it again with a lower train.learning_rate"
        raise NonFiniteError(
            Problem(f"{broken:,} of {len(values):,} rows have NaN or infinite logits", remedy, code="HF513")
        )
