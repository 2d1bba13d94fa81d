"""Area under the ROC curve of a classifier."""

from __future__ import annotations

import math
from typing import Any

import datasets
import evaluate
import numpy as np

DESCRIPTION = "How often a row that has a label is scored above one that has not: area under the ROC curve."
INPUTS = """
Args:
    prediction_scores: for each row, a score of each label.
    references: for each row, the number of its label; with config "multilabel" 0 or 1 for each label.
    average: "macro", the mean over the labels (of two: the second label's alone), or None for each label.
Returns:
    roc_auc: from 0 to 1, a list without average. A label that all rows have, or none, has no area: it is NaN,
        and left out of the mean.
"""


class RocAuc(evaluate.Metric):  # type: ignore[misc]
    """Half for a guess; thresholds do not matter."""

    def _info(self) -> evaluate.MetricInfo:
        number = datasets.Value("int64")
        value = datasets.Sequence(number) if self.config_name == "multilabel" else number
        features = datasets.Features(prediction_scores=datasets.Sequence(datasets.Value("float64")), references=value)
        return evaluate.MetricInfo(description=DESCRIPTION, citation="", inputs_description=INPUTS, features=features)

    def _compute(
        self, prediction_scores: list[list[float]], references: list[Any], average: str | None = "macro"
    ) -> dict[str, Any]:
        from sklearn.metrics import roc_auc_score

        scores, given = np.asarray(prediction_scores), np.asarray(references)
        if self.config_name != "multilabel":
            given = given[:, None] == np.arange(scores.shape[1])  # (rows, labels)
            if scores.shape[1] == 2 and average is not None:
                scores, given = scores[:, 1:], given[:, 1:]
        pairs = zip(given.T, scores.T, strict=True)
        each = [float(roc_auc_score(*pair)) if 0 < pair[0].sum() < len(pair[0]) else math.nan for pair in pairs]
        if average is None:
            return {"roc_auc": each}
        return {"roc_auc": float(np.nanmean(each)) if not np.isnan(each).all() else math.nan}
