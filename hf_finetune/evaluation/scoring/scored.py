"""What scoring gives."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from transformers import PreTrainedModel

from hf_finetune.config.sections import Run
from hf_finetune.evaluation.bootstrap import Statistic
from hf_finetune.models.parameters import count_parameters


@dataclass(frozen=True)
class Scored:
    """What was measured of a model on the rows of a split."""

    evaluation: dict[str, Any]
    """As a report has it."""
    statistic: Statistic
    """The figures again, of rows that count differently; without those of answers, where not all rows were answered."""
    facts: dict[str, Any]
    """What became of the rows, as a report has it."""
    parameters: dict[str, int]
    """Of the model by component, as a report has them; it is not trained."""


def model_path(run: Run) -> str:
    """What is scored; there is always one, or `load_run` would have refused the run."""
    assert run.model.path is not None
    return run.model.path


def parameters_of(model: PreTrainedModel) -> dict[str, int]:
    """The numbers of parameters by component, as a report has them."""
    counts = count_parameters(model).as_dict()
    del counts["trainable"]  # nothing is
    return counts
