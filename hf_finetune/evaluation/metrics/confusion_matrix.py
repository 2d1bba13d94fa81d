"""Confusion matrix of a classifier."""

from __future__ import annotations

from typing import Any

import datasets
import evaluate
import numpy as np

DESCRIPTION = "Counts of rows by the label given (down) and the label predicted (across)."
INPUTS = """
Args:
    predictions: for each row, the number of its predicted label; with config "multilabel" 0 or 1 for each label.
    references: the labels given, likewise.
    labels: the numbers of the labels; by default those that occur.
Returns:
    confusion_matrix: lists of counts; with several labels, for each of them [[neither, predicted], [given, both]].
"""


class ConfusionMatrix(evaluate.Metric):  # type: ignore[misc]
    """As scikit-learn's."""

    def _info(self) -> evaluate.MetricInfo:
        number = datasets.Value("int64")
        value = datasets.Sequence(number) if self.config_name == "multilabel" else number
        features = datasets.Features(predictions=value, references=value)
        return evaluate.MetricInfo(description=DESCRIPTION, citation="", inputs_description=INPUTS, features=features)

    def _compute(
        self, predictions: list[Any], references: list[Any], labels: list[int] | None = None
    ) -> dict[str, list[Any]]:
        from sklearn.metrics import confusion_matrix, multilabel_confusion_matrix

        given, predicted = np.asarray(references), np.asarray(predictions)
        if self.config_name == "multilabel":
            return {"confusion_matrix": multilabel_confusion_matrix(given, predicted, labels=labels).tolist()}
        labels = np.union1d(given, predicted).tolist() if labels is None else labels
        return {"confusion_matrix": confusion_matrix(given, predicted, labels=labels).tolist()}
