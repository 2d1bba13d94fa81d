"""What a run finds in its rows as it starts: what costs it no more than a look at what it has read anyway."""

from __future__ import annotations

import logging
from typing import Any

from hf_finetune.codes import SPLITS
from hf_finetune.config import Run
from hf_finetune.data import Splits
from hf_finetune.data.splitting.leakage import SHARED_WORDS
from hf_finetune.metric_info import choose_verb, say_count
from hf_finetune.preflight.data_report.contents import (
    count_labels,
    find_label_faults,
    find_rejected,
    find_small_splits,
)
from hf_finetune.preflight.data_report.report import SplitReport
from hf_finetune.preflight.findings import Finding
from hf_finetune.preflight.token_view.settings import name_row_kind

logger = logging.getLogger(__name__)

_SAID_BY_SPLITS = ("HF202", "HF204")


def find_at_start(run: Run, splits: Splits) -> list[dict[str, Any]]:
    """Find, and log, what `hf-finetune check` says of rows without reading them again, JSON-ready.

    Lines that are left out, splits too small for a score, labels that are rare or never evaluated, and rows that are
    evaluated and trained. No texts of rows and no places are among them, as they may be pushed.
    """
    labelled = name_row_kind(run) == "labelled"
    reports = {
        split: SplitReport(len(rows), labels=count_labels(splits, split) if labelled else {})
        for split, rows in splits.rows.items()
    }
    found = [
        *find_rejected(splits, run),
        *find_small_splits(reports, labelled=labelled),
        *find_label_faults(reports),
        *_find_shared(splits),
    ]
    for finding in found:
        # Of the others, and of rows that are evaluated and trained, the rooms that read and split have said more.
        if finding.code in SPLITS and finding.code not in _SAID_BY_SPLITS:
            logger.info("%s", finding.what, extra={"code": finding.code})
    return [
        {"code": each.code, "level": each.level, "what": each.what, "split": each.split, "count": each.count}
        for each in found
    ]


def _find_shared(splits: Splits) -> list[Finding]:
    """Evaluated rows that are trained, too, where they stay: of labelled rows, as short texts do repeat."""
    found = []
    for name, counts in splits.overlap.items():
        # Labels are compared where copies stay: of rows without a label they are left out or refused by now.
        if "other_label" in counts and counts["copies"]:
            have = choose_verb(counts["copies"], "has", "have")
            what = f"{name}: {say_count(counts['copies'], 'row')} {have} the text of a training row"
            found.append(Finding("HF202", what, name, counts["copies"], weight="warning"))
        if shared := counts.get("shares_13_words"):
            what = f"{name}: {say_count(shared, 'row')} {choose_verb(shared, 'shares', 'share')} {SHARED_WORDS}"
            found.append(Finding("HF204", what, name, shared))
    return found
