"""Share of the answers that the model ended itself, and not the limit on their length.

Low where the limit is low, or where a model never learned to stop.

Returns:
    stop_rate: from 0 to 1, NaN without rows.
"""

from __future__ import annotations

from typing import ClassVar

from .answer_functions import average_rows
from .base import BOOLEAN, DescribedMetric


class StopRate(DescribedMetric):
    inputs: ClassVar = {"finished": (BOOLEAN, "for each row, whether the model ended the answer.")}

    def _compute(self, finished: list[bool]) -> dict[str, float]:
        return {"stop_rate": average_rows(finished)}
