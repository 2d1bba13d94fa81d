"""Recall of a classifier, for each label or averaged."""

from __future__ import annotations

from typing import Any

import datasets
import evaluate
import numpy as np

DESCRIPTION = "Share of the rows of a label that the model gave it to."
INPUTS = """
Args:
    predictions: for each row, the number of its predicted label; with config "multilabel" 0 or 1 for each label.
    references: the labels given, likewise.
    average: "macro" (each label counts the same), "micro" (each decision), "weighted" (each row), None for each label.
    labels: the numbers of the labels; by default those that occur.
Returns:
    recall: from 0 to 1, a list without average; 0 where the share is one of nothing.
"""


class Recall(evaluate.Metric):  # type: ignore[misc]
    """As scikit-learn's."""

    def _info(self) -> evaluate.MetricInfo:
        number = datasets.Value("int64")
        value = datasets.Sequence(number) if self.config_name == "multilabel" else number
        features = datasets.Features(predictions=value, references=value)
        return evaluate.MetricInfo(description=DESCRIPTION, citation="", inputs_description=INPUTS, features=features)

    def _compute(
        self,
        predictions: list[Any],
        references: list[Any],
        average: str | None = "macro",
        labels: list[int] | None = None,
    ) -> dict[str, Any]:
        from sklearn.metrics import recall_score

        given, predicted = np.asarray(references), np.asarray(predictions)
        score = recall_score(given, predicted, average=average, labels=labels, zero_division=0.0)
        return {"recall": score.tolist() if average is None else float(score)}
