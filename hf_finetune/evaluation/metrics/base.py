"""The bases of the metric modules, by their inputs; abstract, or `evaluate.load` would take one for the metric."""

from __future__ import annotations

import sys
from abc import ABCMeta, abstractmethod
from collections.abc import Mapping
from typing import Any, ClassVar

import datasets
import evaluate

INTEGER, NUMBER, BOOLEAN, TEXT = (datasets.Value(name) for name in ("int64", "float64", "bool", "string"))
NLL_SUMS = (NUMBER, "for each row, the sum of the negative log-likelihoods of its predicted tokens, in nats.")
TOKENS = (INTEGER, "for each row, the number of its predicted tokens.")


class DescribedMetric(evaluate.Metric, metaclass=ABCMeta):  # type: ignore[misc]
    """A metric that its module's docstring describes; `Args:` there are settings of `compute`, not inputs."""

    inputs: ClassVar[Mapping[str, tuple[Any, str]]]
    """By name the type of a column and what it holds."""

    @abstractmethod
    def _compute(self, *args: Any, **inputs: Any) -> dict[str, Any]: ...

    def _list_columns(self) -> Mapping[str, tuple[Any, str]]:
        return self.inputs

    def _info(self) -> evaluate.MetricInfo:
        head, _, returns = (sys.modules[type(self).__module__].__doc__ or "").partition("Returns:\n")
        description, _, settings = head.partition("Args:\n")
        columns = self._list_columns()
        args = "".join(f"    {name}: {meaning}\n" for name, (_, meaning) in columns.items())
        return evaluate.MetricInfo(
            description=description,
            citation="",
            inputs_description=f"\nArgs:\n{args}{settings}Returns:\n{returns}",
            features=datasets.Features({name: value for name, (value, _) in columns.items()}),
        )


class LabelMetric(DescribedMetric):
    """Of predicted labels; config "multilabel" for rows with any number of labels."""

    def _list_columns(self) -> Mapping[str, tuple[Any, str]]:
        several = self.config_name == "multilabel"
        value = datasets.Sequence(INTEGER) if several else INTEGER
        meaning = 'for each row, the number of its {}; with config "multilabel" 0 or 1 for each label.'
        return {
            "predictions": (value, meaning.format("predicted label")),
            "references": (value, meaning.format("label")),
        }


class ScoreMetric(LabelMetric):
    """Of scores or probabilities, likewise."""

    def _list_columns(self) -> Mapping[str, tuple[Any, str]]:
        scores = (datasets.Sequence(NUMBER), "for each row, a score (or the probability) of each label.")
        return {"prediction_scores": scores, "references": super()._list_columns()["references"]}


class NumberMetric(DescribedMetric):
    """Of predicted numbers."""

    inputs: ClassVar = {
        "predictions": (NUMBER, "for each row, the predicted number."),
        "references": (NUMBER, "for each row, the true number."),
    }


class AnswerMetric(DescribedMetric):
    """Of generated answers."""

    inputs: ClassVar = {"predictions": (TEXT, "for each row, the text of the answer.")}


class ComparedAnswerMetric(DescribedMetric):
    """Of generated answers beside references."""

    inputs: ClassVar = {**AnswerMetric.inputs, "references": (TEXT, "for each row, the text that it should be.")}
