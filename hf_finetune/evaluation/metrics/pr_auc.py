"""Area under the precision-recall curve of a classifier."""

from __future__ import annotations

import math
from typing import Any

import datasets
import evaluate
import numpy as np

DESCRIPTION = "Mean precision over the recalls (average precision): area under the precision-recall curve."
INPUTS = """
Args:
    prediction_scores: for each row, a score of each label.
    references: for each row, the number of its label; with config "multilabel" 0 or 1 for each label.
    average: "macro", the mean over the labels (of two: the second label's alone), or None for each label.
Returns:
    pr_auc: from 0 to 1, a list without average. A label that no row has, has no area: it is NaN, and left out of the
        mean.
"""


class PrAuc(evaluate.Metric):  # type: ignore[misc]
    """The label's share for a guess; thresholds do not matter."""

    def _info(self) -> evaluate.MetricInfo:
        number = datasets.Value("int64")
        value = datasets.Sequence(number) if self.config_name == "multilabel" else number
        features = datasets.Features(prediction_scores=datasets.Sequence(datasets.Value("float64")), references=value)
        return evaluate.MetricInfo(description=DESCRIPTION, citation="", inputs_description=INPUTS, features=features)

    def _compute(
        self, prediction_scores: list[list[float]], references: list[Any], average: str | None = "macro"
    ) -> dict[str, Any]:
        from sklearn.metrics import average_precision_score

        scores, given = np.asarray(prediction_scores), np.asarray(references)
        if self.config_name != "multilabel":
            given = given[:, None] == np.arange(scores.shape[1])  # (rows, labels)
            if scores.shape[1] == 2 and average is not None:
                scores, given = scores[:, 1:], given[:, 1:]
        pairs = zip(given.T, scores.T, strict=True)
        each = [float(average_precision_score(*pair)) if pair[0].any() else math.nan for pair in pairs]
        if average is None:
            return {"pr_auc": each}
        return {"pr_auc": float(np.nanmean(each)) if not np.isnan(each).all() else math.nan}
