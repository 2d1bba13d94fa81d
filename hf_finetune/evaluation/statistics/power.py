"""Power of a comparison: the smallest difference that so many rows can show."""

from __future__ import annotations

import math
from statistics import NormalDist

from scipy.optimize import brentq
from scipy.special import stdtrit

# Probability of showing a difference of that size.
POWER = 0.8
# Family-wise error rate of a comparison: the probability of any significant difference between equal models.
ALPHA = 0.05
# Rows without which no paired test shows anything: of 5 that all changed alike 2 of 32 swaps are as extreme, 6.25 %.
MIN_PAIRS = 6


def find_detectable_mean(error: float, rows: int, level: float = ALPHA) -> float | None:
    """Find the difference of two paired means that a two-sided test at `level` shows in 80 % of cases.

    `error` is the standard error of the difference: for a mean over rows, the standard deviation of the rows'
    differences over the square root of `rows`. None for fewer than six rows, or without any spread.
    """
    # 80 rows whose differences have standard deviation 0.5: error 0.056, (1.99 + 0.85) * 0.056 = 0.159.
    if rows < MIN_PAIRS or not error > 0:
        return None
    return error * float(stdtrit(rows - 1, 1 - level / 2) + stdtrit(rows - 1, POWER))


def find_detectable_share(error: float, difference: float, rows: int, level: float = ALPHA) -> float | None:
    """Find the difference of two shares of the same rows, as of right answers, that is shown in 80 % of cases.

    The sample size of McNemar's test (Connor, 1987, Biometrics 43), solved for the difference: the share of rows on
    which the two differ is taken from the observed `difference` and its standard error, and is at least as large as
    the difference to be shown. None for fewer than six rows, and where not all of them would show one.
    """
    # Rows that differ by -1, 0 or 1 have a variance of their share of ones less the squared mean.
    apart = rows * error**2 + difference**2
    ends = NormalDist().inv_cdf(1 - level / 2), NormalDist().inv_cdf(POWER)

    def lack(least: float) -> float:
        share = max(apart, least)
        return ends[0] * math.sqrt(share) + ends[1] * math.sqrt(share - least**2) - least * math.sqrt(rows)

    return float(brentq(lack, 1e-9, 1.0)) if rows >= MIN_PAIRS and lack(1.0) < 0 else None
