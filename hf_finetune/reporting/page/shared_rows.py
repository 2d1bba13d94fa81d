"""Runs on the rows that they share, where their splits differ: by the hashes of the rows in their manifests."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence

from hf_finetune.folders import ROW_SCORES
from hf_finetune.metric_info import format_metric
from hf_finetune.reporting.page.blocks import get_mapping
from hf_finetune.reporting.run_record import RunRecord

HASH_DIGITS = 16
# Negative log-likelihood and tokens of a row, over all examples that were made of it.
RowSums = dict[str, tuple[float, float]]


def describe_shared_rows(runs: Sequence[RunRecord], names: Sequence[str], split: str) -> list[str]:
    """[how many rows of a split all runs share, and the loss of each on them]; [] where that cannot be told.

    For runs with one tokenizer: a loss is a mean over tokens.
    """
    scored = [read_row_sums(run, split) for run in runs]
    if not all(scored):
        return []
    shared = set.intersection(*map(set, scored))
    counts = ", ".join(f"{len(each):,}" for each in scored)
    if not shared:
        return [f"Of their {counts} {split} rows these runs share none."]
    losses = [_compute_loss(each, shared) for each in scored]
    said = ", ".join(f"{name} {format_metric('loss', loss)}" for name, loss in zip(names, losses, strict=True))
    return [f"On the {len(shared):,} {split} rows that all share (of {counts}) the loss is: {said}."]


def read_row_sums(run: RunRecord, split: str) -> RowSums:
    """The sums of each row of a split by its hash; {} where the run kept none, or packed its rows into blocks."""
    record = get_mapping(_read_scores(run).get(split))
    splits = get_mapping(get_mapping(run.manifest.get("data")).get("splits"))
    hashes = get_mapping(splits.get(split)).get("row_hashes")
    tuned, numbers = record.get("tuned"), record.get("row")
    if not (isinstance(hashes, str) and isinstance(tuned, list) and isinstance(numbers, list)):
        return {}
    found: RowSums = {}
    try:
        # "row": [0, 0, 1] are two examples of the first row, as of a long conversation that was split, and one of the
        # second.
        for (nll, _, tokens), number in zip(tuned, numbers, strict=True):
            key = hashes[HASH_DIGITS * number : HASH_DIGITS * (number + 1)]
            before = found.get(key, (0.0, 0.0))
            found[key] = (before[0] + nll, before[1] + tokens)
    except (TypeError, ValueError):  # somebody changed the file
        return {}
    return found


def _read_scores(run: RunRecord) -> Mapping[str, object]:
    try:
        return get_mapping(json.loads((run.folder / ROW_SCORES).read_text(encoding="utf-8")))
    except (OSError, ValueError, RecursionError):
        return {}


def _compute_loss(sums: RowSums, shared: set[str]) -> float:
    """Mean over the tokens of the shared rows."""
    return sum(sums[key][0] for key in shared) / max(1.0, sum(sums[key][1] for key in shared))
