"""Diagnose the rows: too few to train on or to validate by, learned by heart, or on both sides of the split."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping
from typing import Any

from hf_finetune.metric_info import parse_number
from hf_finetune.reporting.diagnosis.findings import Finding, fmt, format_setting, get_train_setting
from hf_finetune.reporting.files import get_part
from hf_finetune.reporting.run_record import RunRecord, get_curve
from hf_finetune.reporting.verdict import judge_model

MIN_TRAIN_ROWS = 20
"""Training rows below which what is learned is these rows, whatever the curves say."""
MIN_ROWS = 30
"""Validation rows needed where no interval was computed: at 30 rows a share is known to within 18 points."""
WIDE = 0.05
"""Half width of a score's interval from which it is too wide."""
WIDE_LOSS = 0.1
"""The same for a loss, as a share of the loss."""
SCORES = ("accuracy", "f1_macro", "exact_match", "token_accuracy")
COPIES = 0.01
"""Share of the validation rows, or of the training rows, that may be copies."""
VERBATIM = 0.01
"""Share of training rows continued verbatim, by the lower end of its interval, from which it is memorization."""
EXTRACTED = 0.5
"""Share of the canaries that can be extracted."""
# A manifest of an older version holds the hashes of all rows of a split as one string, 16 hexadecimal digits each.
HASH_DIGITS = 16


def judge_rows(run: RunRecord, *, overfitted: bool) -> list[Finding]:
    """All findings on the rows; duplicated rows alone are one only if the run `overfitted`."""
    found = [_judge_few_rows(run), _judge_validation_size(run), _memorized(run, overfitted), _judge_leakage(run)]
    return [each for each in found if each]


def _judge_few_rows(run: RunRecord) -> Finding | None:
    """A handful of training rows; no more than a note where the model became better on rows it has not seen."""
    (rows, most), judged = _count_train_rows(run), judge_model(run.report)
    if rows is None or rows >= MIN_TRAIN_ROWS or not get_curve(run, "loss"):
        return None
    unit, at_most = _name_rows(run), "at most " if most else ""
    return Finding(
        kind="few_rows",
        level="note" if judged is not None and judged.outcome == "better" else "warning",
        title=f"There are {at_most or 'only '}{rows:,} {unit} to train on",
        evidence=f"{at_most.capitalize()}{rows:,} {unit}, in {run.step:,} steps: the training loss is of these alone.",
        cause="So few rows show no pattern that others would share; they are learned one by one.",
        remedy="Give more rows, some hundreds at least, and score the model on rows that it was not trained on.",
    )


def _count_train_rows(run: RunRecord) -> tuple[int | None, bool]:
    """Training rows, and whether that is the most there can be.

    Of packed text they are the blocks that the Trainer counted, since one document may be long.
    """
    given = parse_number(get_part(run.report, "data", "train").get("rows"))
    counted = given is None or _name_rows(run) == "blocks"
    return (run.train_rows, True) if counted or given is None else (int(given), False)


def _judge_validation_size(run: RunRecord) -> Finding | None:
    """A validation split too small: by its widest interval, or by its rows where none was computed."""
    scores = run.report.get("evaluation", {}).get("validation")
    scores = scores if isinstance(scores, dict) else {}
    wide = next(_find_wide_intervals(scores), None)
    rows = _count_validation_rows(run)
    if wide is None and (scores.get("intervals") or rows is None or rows >= MIN_ROWS):
        return None
    few = f"It has {rows:,} rows. " if rows is not None else ""
    said = (
        f"{wide[0].replace('_', ' ')} {fmt(wide[1])} may as well be {fmt(wide[2])} or {fmt(wide[3])}." if wide else ""
    )
    return Finding(
        kind="noisy_validation",
        level="warning",
        title="The validation split is too small to tell models apart that are close",
        evidence=f"{few}{said or 'Other rows of the same kind would give other figures.'}".strip(),
        cause="Too few rows for the interval: differences between steps, or between runs, may be chance.",
        remedy="Give more validation rows: a larger data.validation_fraction, or a file of its own in data.validation.",
    )


def _find_wide_intervals(scores: dict[str, Any]) -> Iterator[tuple[str, float, float, float]]:
    """(name, value, low, high) of each metric whose interval is too wide."""
    intervals = scores.get("intervals")
    for name, interval in (intervals if isinstance(intervals, dict) else {}).items():
        value = scores.get(name)
        if not (isinstance(value, int | float) and isinstance(interval, list) and len(interval) == 2):
            continue
        if not all(isinstance(end, int | float) for end in interval):
            continue
        half = (interval[1] - interval[0]) / 2
        if (name in SCORES and half > WIDE) or (name == "loss" and half > WIDE_LOSS * _get_loss_scale(scores, value)):
            yield name, value, *interval


def _get_loss_scale(scores: Mapping[str, Any], loss: float) -> float:
    """The loss that the width of an interval is judged by: the base's where it was measured, else its own."""
    # From 0.96 to 0.07 (0.05 to 0.09): wide beside 0.07, yet nobody doubts which of the two models is better.
    base = parse_number(get_part(scores, "comparison", "figures", "loss").get("base"))
    return max(abs(loss), base if base is not None and math.isfinite(base) else 0.0)


def _name_rows(run: RunRecord) -> str:
    """What the Trainer counts: `blocks` where it is given packed text, whose documents or conversations are others."""
    recipe = run.report.get("recipe") or run.settings.get("recipe")
    packed = recipe == "continued_pretraining" or get_train_setting(run, "packing") is True
    return "blocks" if packed else "rows"


def _count_validation_rows(run: RunRecord) -> int | None:
    """Rows of the validation split; of another's run, runtime times rows per second, which every Trainer logs."""
    # Before the report the manifest has them; a Trainer counts the windows that long rows are cut into.
    for part in (
        get_part(run.report, "data", "validation"),
        get_part(run.manifest, "data", "splits", "validation"),
    ):
        given = parse_number(part.get("rows"))
        if given is not None and math.isfinite(given):
            return int(given)
    timed = (
        _read_numbers(entry, "eval_runtime", "eval_samples_per_second") for entry in run.history if "eval_loss" in entry
    )
    return max((round(seconds * rate) for seconds, rate in filter(None, timed)), default=None)


def _memorized(run: RunRecord, overfitted: bool) -> Finding | None:
    """Training rows that the model reproduces, or duplicated rows in a run that overfitted."""
    text, repeated = " ".join(_memorized_text(run)), _count_distinct_rows(run)
    rows, unique = repeated or (0, 0)
    copies = rows - unique
    often = rows > 0 and copies > COPIES * rows
    if not text and not (often and overfitted):
        return None
    said = f"{copies:,} of {rows:,} training rows are copies of others. " if often else ""
    return Finding(
        kind="duplicates_behind_memorization",
        level="warning",
        title="Training rows are memorized" + (", and there are copies among them" if often else ""),
        evidence=f"{said}{text}".strip(),
        cause="What is seen many times is repeated word for word."
        if often
        else "Rows were seen often enough to be repeated.",
        remedy="Take out copies, weights above 1 and secrets; fewer epochs "
        f"({format_setting(run, 'num_train_epochs', 1)}) and a smaller model or adapter memorize less.",
    )


def _memorized_text(run: RunRecord) -> Iterator[str]:
    """A sentence for each memorization probe above its threshold, over all splits."""
    for split in run.report.get("evaluation", {}).values():
        found = split.get("memorization") if isinstance(split, dict) else None
        if not isinstance(found, dict):
            continue
        verbatim, canaries = found.get("verbatim"), found.get("canaries")
        interval = verbatim.get("interval") if isinstance(verbatim, dict) else None
        low = _read_numbers(dict(enumerate(interval)) if isinstance(interval, list) else None, 0)
        counted = _read_numbers(verbatim, "continued", "rows")
        if low and counted and low[0] > VERBATIM:
            yield f"{counted[0]:,.0f} of {counted[1]:,.0f} rows are continued word for word."
        for group in canaries if isinstance(canaries, list) else []:
            planted = _read_numbers(group, "extracted", "copies")
            if planted and planted[0] >= EXTRACTED:
                yield f"{planted[0]:.0%} of the canaries planted {planted[1]:,.0f} times can be extracted."


def _read_numbers(holder: Any, *names: str | int) -> list[float]:
    """The values of all `names`; [] if one is missing or not a finite number, for files can be edited by hand."""
    values = [holder.get(name) for name in names] if isinstance(holder, dict) else []
    numbers = [float(value) for value in values if isinstance(value, int | float) and not isinstance(value, bool)]
    return numbers if len(numbers) == len(names) and all(map(math.isfinite, numbers)) else []


def _count_distinct_rows(run: RunRecord) -> tuple[int, int] | None:
    """(rows, distinct rows) of the training split, by the manifest."""
    train = get_part(run.manifest, "data", "splits", "train")
    if counted := _read_numbers(train, "rows", "distinct"):
        return round(counted[0]), round(counted[1])
    hashes = train.get("row_hashes")
    if not isinstance(hashes, str):
        return None
    # two rows with one text: "0123456789abcdef0123456789abcdef" -> (2, 1)
    each = [hashes[start : start + HASH_DIGITS] for start in range(0, len(hashes), HASH_DIGITS)]
    return len(each), len(set(each))


def _judge_leakage(run: RunRecord) -> Finding | None:
    """Validation rows that are copies of training rows."""
    copies = get_part(run.manifest, "data", "overlap", "validation").get("copies", 0)
    rows = get_part(run.report, "data", "validation").get("rows", 0)
    if not (isinstance(copies, int) and isinstance(rows, int)) or copies <= COPIES * rows or not rows:
        return None
    return Finding(
        kind="validation_leak",
        level="warning",
        title="Validation rows were trained on",
        evidence=f"{copies:,} of {rows:,} validation rows have the text of a training row.",
        cause="The same text is in both splits: the figures are better than on new text.",
        remedy="Take the copies out, or keep them in one split with data.group_by.",
    )
