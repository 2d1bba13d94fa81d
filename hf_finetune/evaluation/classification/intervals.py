"""The intervals of a classifier's metrics, and the labels that are too rare for some."""

from __future__ import annotations

from typing import Any

import numpy as np
import numpy.typing as npt

from hf_finetune.evaluation.classification.statistics import make_label_statistic
from hf_finetune.evaluation.statistics.bootstrap import Array, Groups
from hf_finetune.evaluation.statistics.intervals import SHARES, compute_intervals
from hf_finetune.label_set import Labels

Integers = npt.NDArray[np.int64]

# Every label counts the same in these, however few rows have it.
BY_LABEL = (
    *("balanced_accuracy", "precision_macro", "recall_macro", "f1_macro", "matthews_correlation"),
    *("roc_auc", "pr_auc"),
)
# Means over labels of the share that is found, of the share of those foretold that is right, and of F1, which is the
# hits as a share of the mean of both numbers of rows.
OF_FOUND, OF_FORETOLD, OF_BOTH = ("balanced_accuracy", "recall_macro"), ("precision_macro",), ("f1_macro",)
# Rows of a label, of several labels also rows without it.
MIN_LABEL_ROWS = 15
# Rows of a label that are right, and that are wrong: with fewer no resample has what others may have.
MIN_SEEN = 2
# Of a few mistakes one or two may have most of the log-loss, and other rows would have had none of these, or more.
MIN_MISTAKES = 10


def compute_label_intervals(
    labels: Labels, probabilities: Array, chosen: Integers, references: Integers, groups: Groups | None = None
) -> dict[str, dict[str, Any]]:
    """Compute `intervals` and `no_interval` of a split: `probabilities` (rows, labels), the others as they are chosen.

    `chosen` and `references`: (rows,), or (rows, labels) for multi-label; `groups`: (rows,).
    """
    kind: Any = labels.kind
    statistic = make_label_statistic(kind, probabilities, chosen, references)
    shares = SHARES | {"f1_micro"} if kind == "single" else SHARES  # of one label a row it is the accuracy
    return compute_intervals(
        statistic,
        len(probabilities),
        labels=probabilities.shape[1],
        groups=groups,
        shares=shares,
        too_few=find_too_few(labels, chosen, references, groups),
    )


def find_too_few(
    labels: Labels, chosen: Integers, references: Integers, groups: Groups | None = None
) -> dict[str, str]:
    """Say of each metric that has no interval which label, or what, has too few rows; {} where none has.

    Shapes as for `compute_label_intervals`.
    """
    numbers, unit = np.arange(len(labels.names)), "rows" if groups is None else "groups"
    given, foretold = (each if each.ndim == 2 else each[:, None] == numbers for each in (references, chosen))
    reasons: dict[str, str] = {}
    kinds = {"": given} if references.ndim == 1 else {"": given, "out": 1 - given}
    for without, rows in kinds.items():
        counts = [_count_units(column, groups) for column in rows.T]
        rarest = int(np.argmin(counts))
        if counts[rarest] < MIN_LABEL_ROWS:
            what = f"too few {unit} with{without} label {labels.names[rarest]} for an interval: {counts[rarest]}"
            reasons = dict.fromkeys(BY_LABEL, f"{what}, at least {MIN_LABEL_ROWS} are needed") | reasons
    told = [_count_units(column, groups) for column in foretold.T]
    rarest = int(np.argmin(told))
    if told[rarest] < MIN_LABEL_ROWS:
        what = f"too few {unit} are called {labels.names[rarest]} for an interval: {told[rarest]}"
        reasons = dict.fromkeys(OF_FORETOLD, f"{what}, at least {MIN_LABEL_ROWS} are needed") | reasons
    for whole, names in ((given, OF_FOUND), (foretold, OF_FORETOLD), ((given + 1.0 * foretold) / 2, OF_BOTH)):
        if (label := _find_hidden_errors(whole, given * foretold)) is not None:
            what = f"too few mistakes in label {labels.names[label]} for an interval: other {unit} may have many more"
            reasons = dict.fromkeys(names, what) | reasons
    wrong = chosen != references
    mistakes = _count_units(wrong if wrong.ndim == 1 else wrong.any(axis=1), groups)
    if mistakes < MIN_MISTAKES:
        what = f"too few mistakes for an interval: {mistakes} {unit} have one, at least {MIN_MISTAKES} are needed"
        reasons["log_loss"] = what
    return reasons


def _find_hidden_errors(whole: npt.NDArray[Any], right: npt.NDArray[Any]) -> int | None:
    """Find the label whose share of `right` among `whole`, (rows, labels), is as unsure as all that the rows show.

    Of 20 rows of a label without a mistake 1 or 2 others may have one: that is most of the error of a mean over labels
    whose others have hundreds of rows, and no resample has it. None where there is no such label.
    """
    sizes, hits = np.maximum(1.0, whole.sum(axis=0)), right.sum(axis=0)
    shares = np.minimum(1.0, hits / sizes)
    unsure = np.where(np.minimum(hits, sizes - hits) < MIN_SEEN, 1.5 / sizes**2, 0.0)
    shown = float((shares * (1 - shares) / sizes).sum())
    return int(unsure.argmax()) if float(unsure.sum()) > shown / 3 else None


def _count_units(which: npt.NDArray[Any], groups: Groups | None) -> int:
    """Count the rows that `which`, (rows,), selects, or the groups that have such a row."""
    selected = which.astype(bool)
    return int(selected.sum()) if groups is None else len(np.unique(groups[selected]))
