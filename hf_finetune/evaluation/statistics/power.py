"""Power of a comparison: the smallest difference of two means that so many rows can show; of shares: `metric_info`."""

from __future__ import annotations

from scipy.special import stdtrit

from hf_finetune.metric_info import ALPHA, MIN_PAIRS, POWER


def find_detectable_mean(error: float, rows: int, level: float = ALPHA) -> float | None:
    """Find the difference of two paired means that a two-sided test at `level` shows in 80 % of cases.

    `error` is the standard error of the difference: for a mean over rows, the standard deviation of the rows'
    differences over the square root of `rows`. None for fewer than six rows, or without any spread.
    """
    # 80 rows whose differences have standard deviation 0.5: error 0.056, (1.99 + 0.85) * 0.056 = 0.159.
    if rows < MIN_PAIRS or not error > 0:
        return None
    return error * float(stdtrit(rows - 1, 1 - level / 2) + stdtrit(rows - 1, POWER))
