"""Rejected lines, labels, languages, and splits that are too small for a score."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator

import numpy as np

from hf_finetune.codes import CODES
from hf_finetune.config import Run
from hf_finetune.data import Splits, iterate_rejected_lines
from hf_finetune.metric_info import MIN_PAIRS, choose_verb, find_detectable_share, format_size, say_count
from hf_finetune.preflight.data_report.report import SplitReport
from hf_finetune.preflight.detectors.drift import draw_texts
from hf_finetune.preflight.detectors.languages import Languages, detect_languages
from hf_finetune.preflight.detectors.texts import tally_labels
from hf_finetune.preflight.findings import MAX_PLACES, Finding, Place

FEWEST_OF_A_CLASS = 10
_SMALLEST_SHARE = 0.01
_FINEST = 0.02
"""A difference of accuracy that a split should be able to show, as one of 400 rows is."""
_FEWEST_EXAMPLES = 100
"""Of conversations and documents: a mean over fewer depends on each of them."""
_LABELS_SHOWN = 5
_STRANGE_SHARE, _STRANGE_ROWS = 0.1, 3


def find_rejected(splits: Splits, run: Run) -> Iterator[Finding]:
    """Say which lines are rejected, by split and kind: errors, unless the run is told to skip them."""
    counts: Counter[tuple[str, str]] = Counter()
    places: dict[tuple[str, str], list[Place]] = {}
    lines: Counter[str] = Counter()
    for each in iterate_rejected_lines(splits):
        kind = (each.role, each.code)
        counts[kind] += 1
        if counts[kind] <= MAX_PLACES:
            places.setdefault(kind, []).append(Place(each.path, each.line))
    for file in splits.files:
        lines[file.role] += file.lines
    for (role, code), count in counts.items():
        are = choose_verb(count, "is", "are")
        what = f"{role}: {count:,} of {say_count(lines[role], 'line')} {are} rejected: {CODES[code].title}"
        skipped = run.data.on_bad_line == "skip"
        yield Finding(code, what, role, count, tuple(places[role, code]), weight="warning" if skipped else None)


def count_labels(splits: Splits, split: str) -> dict[str, int]:
    """Count the rows of each label in a split, the most frequent first; {} where rows have none, or numbers."""
    rows = splits.rows[split]
    if "label" not in rows.column_names:
        return {}
    label = rows.features["label"]
    if getattr(label, "feature", label).dtype not in ("string", "large_string"):
        return {}
    return dict(tally_labels(rows).most_common())


def find_label_faults(splits: dict[str, SplitReport]) -> Iterator[Finding]:
    """Say which labels are rare in the training rows, and which the evaluated rows never have."""
    train = splits["train"].labels if "train" in splits else {}
    if not train:
        return
    rows = splits["train"].rows
    rare = [label for label, count in train.items() if count < max(FEWEST_OF_A_CLASS, _SMALLEST_SHARE * rows)]
    if rare:
        # The rarest first: labels are counted from the most frequent on.
        listed = ", ".join(f"{label!r} has {train[label]:,}" for label in rare[::-1][:_LABELS_SHOWN])
        more = f" and {len(rare) - _LABELS_SHOWN:,} more" if len(rare) > _LABELS_SHOWN else ""
        yield Finding("HF383", f"train: of {say_count(rows, 'row')} {listed}{more}", "train", len(rare))
    for name, split in splits.items():
        missing = [label for label in train if label not in split.labels] if name != "train" and split.labels else []
        if missing:
            listed = ", ".join(map(repr, missing[:_LABELS_SHOWN])) + (", ..." if len(missing) > _LABELS_SHOWN else "")
            yield Finding("HF384", f"{name}: no row has {listed}", name, len(missing))


def sample_languages(splits: Splits, split: str, seed: int) -> Languages:
    """The languages of a sample of rows."""
    return detect_languages(draw_texts(splits, split, seed))


def find_language_faults(splits: dict[str, SplitReport]) -> Iterator[Finding]:
    """Say which rows are evaluated in another language than is trained."""
    train = splits["train"].languages.shares if "train" in splits else {}
    for name, split in splits.items():
        # From a tenth and three rows on: now and then one is taken for another language.
        least = max(_STRANGE_SHARE, _STRANGE_ROWS / max(1, split.languages.told))
        strange = {each: share for each, share in split.languages.shares.items() if train and each not in train}
        listed = [f"{each} ({share:.0%})" for each, share in strange.items() if share >= least]
        if listed:
            are = "is" if len(listed) == 1 else "are"
            what = f"{name}: {', '.join(listed)} {are} not among the languages of the training rows"
            yield Finding("HF385", what, name)


def find_small_splits(splits: dict[str, SplitReport], *, labelled: bool) -> Iterator[Finding]:
    """Say which splits are too small for the interval that their scores will have."""
    for name, split in splits.items():
        if name == "train" or not split.rows:
            continue
        rows, classes = say_count(split.rows, "row"), labelled and bool(split.labels)
        if classes and split.rows < MIN_PAIRS:
            what = f"{name}: {rows} cannot show any difference of accuracy: a test needs {MIN_PAIRS} at least"
            yield Finding("HF382", what, name, split.rows)
        elif classes and (least := find_detectable_share(0.0, 0.0, split.rows) or 1.0) > _FINEST:
            size = format_size("accuracy", least)
            what = f"{name}: {rows} cannot reliably show a difference of accuracy below {size}"
            yield Finding("HF382", what, name, split.rows)
        elif not classes and split.rows < _FEWEST_EXAMPLES:
            what = f"{name}: a mean over {rows} depends on {'it alone' if split.rows == 1 else 'each of them'}"
            yield Finding("HF382", what, name, split.rows)


def space_rows(rows: int, wanted: int) -> list[int]:
    """The numbers of `wanted` rows of so many, evenly spaced from the first on."""
    # 3 of 10 rows: 0, 4 and 9.
    return sorted({int(number) for number in np.linspace(0, rows - 1, min(wanted, rows))}) if rows else []
