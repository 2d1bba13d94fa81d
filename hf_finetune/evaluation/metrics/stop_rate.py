"""How often answers come to an end."""

from __future__ import annotations

import math

import datasets
import evaluate

DESCRIPTION = "Share of the answers that the model ended itself, and not the limit on their length."
INPUTS = """
Args:
    finished: for each row, whether the model ended the answer.
Returns:
    stop_rate: from 0 to 1, NaN without rows.
"""


class StopRate(evaluate.Metric):  # type: ignore[misc]
    """Low where the limit is low, or where a model never learned to stop."""

    def _info(self) -> evaluate.MetricInfo:
        features = datasets.Features(finished=datasets.Value("bool"))
        return evaluate.MetricInfo(description=DESCRIPTION, citation="", inputs_description=INPUTS, features=features)

    def _compute(self, finished: list[bool]) -> dict[str, float]:
        return {"stop_rate": sum(finished) / len(finished) if len(finished) else math.nan}
