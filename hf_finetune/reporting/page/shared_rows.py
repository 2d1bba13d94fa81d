"""Runs on the rows that they share, where their splits differ: by the prints of the rows in their folders."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence

from hf_finetune.folders import ROW_SCORES
from hf_finetune.metric_info import format_metric
from hf_finetune.reporting.page.blocks import get_mapping
from hf_finetune.reporting.run_record import RunRecord
from hf_finetune.row_prints import read_row_prints

# Of a manifest of an older version, which holds the hashes of the rows.
HASH_DIGITS = 16
# Negative log-likelihood and tokens of a row, over all examples that were made of it.
RowSums = dict[str, tuple[float, float]]


def describe_shared_rows(runs: Sequence[RunRecord], names: Sequence[str], split: str) -> list[str]:
    """[how many rows of a split all runs share, and the loss of each on them]; [] where that cannot be told.

    For runs with one tokenizer: a loss is a mean over tokens. Prints under different keys cannot be compared.
    """
    if len({_read_key(run) for run in runs}) > 1:
        return []
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
    """The sums of each row of a split by its print; {} where the run kept none, or packed its rows into blocks."""
    record = get_mapping(_read_scores(run).get(split))
    hashes = _read_hashes(run, split)
    tuned, numbers = record.get("tuned"), record.get("row")
    if not (hashes and isinstance(tuned, list) and isinstance(numbers, list)):
        return {}
    found: RowSums = {}
    try:
        # "row": [0, 0, 1] are two examples of the first row, as of a long conversation that was split, and one of the
        # second.
        for (nll, _, tokens), number in zip(tuned, numbers, strict=True):
            key = hashes[number]
            before = found.get(key, (0.0, 0.0))
            found[key] = (before[0] + nll, before[1] + tokens)
    except (TypeError, ValueError, IndexError):  # somebody changed the file
        return {}
    return found


def _read_key(run: RunRecord) -> bytes | None:
    prints = read_row_prints(run.folder)
    return None if prints is None else prints.key


def _read_hashes(run: RunRecord, split: str) -> list[str]:
    """The print of each row of a split, in its order."""
    if (prints := read_row_prints(run.folder)) is not None:
        return [f"{value:016x}" for value in prints.rows.get(split, [])]
    splits = get_mapping(get_mapping(run.manifest.get("data")).get("splits"))
    hashes = get_mapping(splits.get(split)).get("row_hashes")
    found = hashes if isinstance(hashes, str) else ""
    return [found[start : start + HASH_DIGITS] for start in range(0, len(found), HASH_DIGITS)]


def _read_scores(run: RunRecord) -> Mapping[str, object]:
    try:
        return get_mapping(json.loads((run.folder / ROW_SCORES).read_text(encoding="utf-8")))
    except (OSError, ValueError, RecursionError):
        return {}


def _compute_loss(sums: RowSums, shared: set[str]) -> float:
    """Mean over the tokens of the shared rows."""
    return sum(sums[key][0] for key in shared) / max(1.0, sum(sums[key][1] for key in shared))
