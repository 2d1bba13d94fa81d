"""The formulas of a regression's metrics, scikit-learn's; predictions and references (rows,) each.

`classification/statistics.py` has them for weighted rows, from moments.
"""

from __future__ import annotations

import math
from typing import Any

import numpy as np


def compute_mean_absolute_error(predictions: Any, references: Any) -> float:
    """Compute the mean of the absolute errors; NaN without rows."""
    from sklearn.metrics import mean_absolute_error

    return float(mean_absolute_error(references, predictions)) if len(references) else math.nan


def compute_mean_squared_error(predictions: Any, references: Any) -> float:
    """Compute the mean of the squared errors; NaN without rows."""
    from sklearn.metrics import mean_squared_error

    return float(mean_squared_error(references, predictions)) if len(references) else math.nan


def compute_r2(predictions: Any, references: Any) -> float:
    """Compute the share of the references' variance that is explained; NaN where they are all the same."""
    from sklearn.metrics import r2_score

    return float(r2_score(references, predictions)) if len({*references}) > 1 else math.nan


def compute_pearson(predictions: Any, references: Any) -> float:
    """Compute the linear correlation; NaN where either are all the same."""
    if len({*references}) < 2 or len({*predictions}) < 2:
        return math.nan
    return float(np.corrcoef(references, predictions)[0, 1])
