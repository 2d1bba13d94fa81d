"""Which intervals can be shown: those that hold the true value in 95 of 100 cases, and of the others why not.

The rules follow benchmarks/bootstrap_coverage.py, which has each regime. Shares of rows are Wilson's (1927), which
holds where two rows of sixty are wrong, or none; the others are bootstrapped, and are left out where few rows decide
them.
"""

from __future__ import annotations

import math
from collections.abc import Collection, Mapping
from typing import Any

from scipy.special import ndtri, stdtrit

from hf_finetune.evaluation.statistics.bootstrap import (
    Groups,
    Resampled,
    Statistic,
    Tail,
    compute_interval,
    limit_resamples,
    resample_metrics,
)
from hf_finetune.metric_info import get_metric_info

# Means over rows of 0 and 1.
SHARES = frozenset({"accuracy", "exact_match", "refusal_rate", "stop_rate"})
# With fewer rows, or groups of rows, the largest loss of all is rarely among them.
MIN_UNITS = 20
# Rows (or groups) that decide a metric between two bounds, where the others give the same value.
MIN_CARRIERS = 3
BOUNDED = frozenset({"bleu", "chrf", "matthews_correlation"})
# Of counts of rows alone, as shares are and means of them over labels.
OF_COUNTS = frozenset(
    {"balanced_accuracy", "recall_macro", "precision_macro", "f1_macro", "f1_micro", "f1_weighted"}
    | {"matthews_correlation"}
)
# Means of -log(p): as large as a difference of logits, of which none is many times the others.
LIGHT = frozenset({"log_loss"})
# Of these the standard error alone is needed, and how few rows decide it is in the quantile.
AREAS = frozenset({"roc_auc"})
# A calibration error is above 0 for a model without any: its resamples are around another value than it is itself.
BIASED = {"expected_calibration_error": "it has no interval: chance alone raises it, by more the fewer the rows"}


def compute_intervals(
    statistic: Statistic,
    rows: int,
    *,
    labels: int = 1,
    groups: Groups | None = None,
    shares: Collection[str] = SHARES,
    too_few: Mapping[str, str] | None = None,
) -> dict[str, dict[str, Any]]:
    """Compute the `intervals` of 95 % that can be shown, and `no_interval`, why others cannot; in some seconds.

    `labels` is the labels of a row; `groups` the group of each row, (rows,), where rows belong together; `shares` the
    metrics that are means of 0 and 1 over all rows; `too_few` what the caller knows against metrics, by name.
    """
    found = resample_metrics(statistic, rows, groups=groups, resamples=limit_resamples(rows, labels))
    units = rows if groups is None else int(groups.max()) + 1
    intervals, reasons = {}, {}
    for name, each in found.items():
        if math.isnan(each.point):
            continue
        grouped, is_share = groups is not None, name in shares
        reason = (too_few or {}).get(name) or find_obstacle(name, each, units, is_share=is_share, grouped=grouped)
        if reason:
            reasons[name] = reason
        elif is_share:
            intervals[name] = list(compute_share_interval(each, rows, units if grouped else None))
        else:
            intervals[name] = list(compute_shown_interval(name, each))
    return {"intervals": intervals} | ({"no_interval": reasons} if reasons else {})


def find_obstacle(
    name: str, found: Resampled, units: int, *, is_share: bool = False, grouped: bool = False
) -> str | None:
    """Say why the interval of a metric would not hold; None where it does. `units` are rows, or groups of rows."""
    unit = "groups" if grouped else "rows"
    if name in BIASED:
        return BIASED[name]
    if units < MIN_UNITS and (grouped or not is_share):
        return f"too few {unit} for an interval: {units}, at least {MIN_UNITS} are needed"
    if is_share:
        return None
    if found.carriers == 0 or len(found.drawn) < 2 or (name in AREAS and not 0 < found.point < 1):
        return f"no interval: it is the same for all {unit}"
    if is_bounded(name) and name not in AREAS and found.carriers < MIN_CARRIERS:
        return f"too few {unit} decide it for an interval: it is as if there were {found.carriers:.0f}"
    return None


def compute_shown_interval(name: str, found: Resampled) -> tuple[float, float]:
    """Compute the 95 % interval of a metric that is no share of rows."""
    if name in AREAS:
        return compute_area_interval(found)
    return compute_interval(found, tail=get_tail(name))


def get_tail(name: str) -> Tail:
    """What one row may add to a metric that is no share of rows."""
    if name in OF_COUNTS:
        return "share"
    return "light" if name in LIGHT or is_bounded(name) else "heavy"


def is_bounded(name: str) -> bool:
    """Whether a metric lies between two bounds, so that rows can agree at one of them."""
    return name in BOUNDED or get_metric_info(name).unit_scale


def compute_area_interval(found: Resampled) -> tuple[float, float]:
    """Compute the 95 % interval of an area under the ROC curve, which lies between 0 and 1, on its log-odds.

    The error is the jackknife's, which for an area is DeLong's (1988); on the log-odds (Pepe, 2003, section 5.2.5) the
    interval of an area of 0.99 does not reach beyond 1.
    """
    area = found.point
    half = float(stdtrit(found.estimate_freedom("light"), 0.975)) * found.error / (area * (1 - area))
    odds = math.log(area / (1 - area))
    return 1 / (1 + math.exp(half - odds)), 1 / (1 + math.exp(-half - odds))


def compute_share_interval(found: Resampled, rows: int, groups: int | None) -> tuple[float, float]:
    """Compute the 95 % interval of a share of `rows`; in `groups` groups, as of fewer rows by their design effect.

    Kish (1965): rows of a group that agree count for less. If all rows agree, each group counts as one.
    """
    share = found.point
    if groups is None:
        return compute_wilson_interval(share, rows)
    variance = found.variance
    independent = min(float(rows), share * (1 - share) / variance) if variance > 0 else float(groups)
    return compute_wilson_interval(share, independent, quantile=float(stdtrit(groups - 1, 0.975)))


def compute_wilson_interval(share: float, rows: float, quantile: float | None = None) -> tuple[float, float]:
    """Compute the interval of a share (Wilson, 1927), which has a width even for shares 0 and 1.

    `quantile` defaults to the normal distribution's for 95 %, 1.96.
    """
    width = float(ndtri(0.975)) if quantile is None else quantile
    # 2 of 60 right: center (0.033 + 0.032) / 1.064, half width 0.053.
    wider = width**2 / rows
    center = (share + wider / 2) / (1 + wider)
    half = math.sqrt(share * (1 - share) * wider + wider**2 / 4) / (1 + wider)
    return max(0.0, min(share, center - half)), min(1.0, max(share, center + half))
