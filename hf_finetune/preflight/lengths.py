"""How long the rows of a run are in tokens, what its limit takes of them, and what another limit would save."""

from __future__ import annotations

from dataclasses import asdict, dataclass
from functools import partial
from typing import Any

import numpy as np
import numpy.typing as npt

from hf_finetune.data import Splits
from hf_finetune.data.tokenization.batches import iterate_batches
from hf_finetune.data.tokenization.labelled import has_pairs
from hf_finetune.data.tokenization.text import UNKNOWN, separate_pairs
from hf_finetune.data.workers import RowWork, count_processes, map_rows
from hf_finetune.metric_info import choose_verb, say_count
from hf_finetune.preflight.findings import Finding, Place
from hf_finetune.preflight.row_lengths import ConversationLengths, DocumentLengths, Sizes, Tally, TextLengths
from hf_finetune.preflight.token_view.settings import TokenSettings, name_row_kind

PERCENTILES = (1, 5, 25, 50, 75, 95, 99, 100)
BARS = 10
"""Of a histogram, at most."""


@dataclass(frozen=True, slots=True)
class AtLimit:
    """What a limit leaves of the rows of a split."""

    limit: int
    too_long: int
    """Rows of more tokens: left out, cut or split."""
    lost: int
    """Rows that lose some of what is trained."""
    lost_whole: int
    """Those of them that lose all of it."""
    without_end: int
    """Rows that are cut inside a turn, of which the end token is not trained."""
    tokens: int
    trained_tokens: int


@dataclass(frozen=True, slots=True)
class SplitLengths:
    """The lengths of the rows of a split in tokens, before anything is cut."""

    split: str
    kind: str
    rows: int
    percentiles: dict[str, int]
    """Of the tokens of a row; of texts to classify no more than are measured."""
    trained_percentiles: dict[str, int]
    histogram: dict[str, int]
    """Rows by their tokens, `0-99` and so on."""
    limits: tuple[AtLimit, ...]
    """Of the run first; of documents, none of which loses anything, the size of a block alone."""
    counts: dict[str, int]
    """Rows: `untrained`, `empty`, `near_empty`, `spelled`; and `unknown` tokens."""
    places: dict[str, tuple[Place, ...]]
    """Where the first rows of each kind stand."""

    def as_dict(self) -> dict[str, Any]:
        """JSON-ready."""
        return asdict(self)


def measure_lengths(splits: Splits, settings: TokenSettings) -> dict[str, SplitLengths]:
    """Tokenize all rows once, and count what each of a few limits leaves of them; 8 bytes a row are kept.

    Raises `DataError` where the recipe refuses rows, as for a template that does not fit them.
    """
    return {split: _measure_split(splits, split, settings) for split in splits.rows}


def list_limits(settings: TokenSettings) -> list[int]:
    """The limit of a run, and those that it is compared with: twice and four times as much, as far as it goes."""
    if settings.limit is None:
        return []
    if name_row_kind(settings.run) == "document":
        return [settings.limit]
    most = settings.most or 4 * settings.limit
    # Of 1,024 and a model that takes 3,000: 1,024, 2,048 and 3,000. A run may ask for more than its model takes.
    return sorted({min(factor * settings.limit, max(most, settings.limit)) for factor in (1, 2, 4)})


def _measure_split(splits: Splits, split: str, settings: TokenSettings) -> SplitLengths:
    rows, kind, limits = splits.rows[split], name_row_kind(settings.run), list_limits(settings)
    where = partial(splits.locate, split)
    columns = {"document": ["text"], "labelled": ["text", "text_pair"], "conversation": rows.column_names}[kind]
    work: RowWork[Sizes]
    if kind == "conversation":
        work = conversations = ConversationLengths(rows, where, settings, limits)
        tally = conversations.tally
    elif kind == "document":
        work = documents = DocumentLengths(where, settings, in_windows=split != "train")
        tally = documents.tally
    else:
        if any(has_pairs(each) for each in splits.rows.values()):
            separate_pairs(settings.tokenizer)
        # One token more than the largest limit tells that a text is longer; the rest of a book need not be tokenized.
        work = texts = TextLengths(where, settings, limits)
        tally = texts.tally
    sizes, filled = np.zeros((len(rows), 2), np.int32), 0
    batches = iterate_batches(rows, columns)
    for some in map_rows(work, batches, count_processes(settings.data.num_proc), len(rows)):
        sizes[filled : filled + len(some)] = some
        filled += len(some)
    if kind == "conversation" and conversations.renderer.problems:
        raise conversations.renderer.describe_problems()
    return _describe(splits, split, settings, sizes[:filled], tally)


def _describe(splits: Splits, split: str, settings: TokenSettings, sizes: Sizes, tally: Tally) -> SplitLengths:
    kind = name_row_kind(settings.run)
    counts = {name: tally.counts[name] for name in ("untrained", "empty", "near_empty", "spelled", "unknown")}
    tokens = sizes[:, 0]
    return SplitLengths(
        split,
        kind,
        len(splits.rows[split]),
        _percentiles(tokens),
        _percentiles(sizes[:, 1]),
        _draw_histogram(tokens),
        tuple(_describe_limit(limit, settings, split, sizes, tally) for limit in list_limits(settings)),
        counts,
        {name: tuple(Place(*splits.locate(split, row)) for row in found) for name, found in sorted(tally.rows.items())},
    )


def _describe_limit(limit: int, settings: TokenSettings, split: str, sizes: Sizes, tally: Tally) -> AtLimit:
    counts, kind = tally.counts, name_row_kind(settings.run)
    tokens = int(sizes[:, 0].sum(dtype=np.int64))
    if kind == "document":
        # In blocks every token but the first is predicted, unless documents are kept apart; in windows, too.
        apart = split != "train" or settings.data.isolate_documents
        return AtLimit(limit, 0, 0, 0, 0, tokens, tokens - (len(sizes) if apart else min(1, tokens)))
    if kind == "labelled":
        kept = int(np.minimum(sizes[:, 0], limit).sum(dtype=np.int64))
        return AtLimit(limit, counts[f"too_long {limit}"], counts[f"lost {limit}"], 0, 0, kept, kept)
    lost = counts[f"lost {limit}"], counts[f"whole_lost {limit}"], counts[f"without_end {limit}"]
    return AtLimit(limit, counts[f"too_long {limit}"], *lost, counts[f"kept {limit}"], counts[f"trained {limit}"])


def _percentiles(values: npt.NDArray[np.int32]) -> dict[str, int]:
    if not len(values):
        return {}
    # The length of a row, and none between two of them.
    found = np.percentile(values, PERCENTILES, method="inverted_cdf")
    return {"max" if each == 100 else str(each): int(value) for each, value in zip(PERCENTILES, found, strict=True)}


def _draw_histogram(values: npt.NDArray[np.int32]) -> dict[str, int]:
    """Count `values` in at most `BARS` ranges of a round width, from the first that is not empty: {"0-99": 3}."""
    if not len(values):
        return {}
    most = int(values.max())
    # Up to 730 tokens a bar is 100 wide: of 50, ten bars end at 499.
    width = next(
        width for power in range(12) for width in (10**power, 2 * 10**power, 5 * 10**power) if width * BARS > most
    )
    counts = np.bincount(values // width)
    first = int(np.flatnonzero(counts)[0])
    return {
        f"{number * width}-{(number + 1) * width - 1}": int(count) for number, count in enumerate(counts[first:], first)
    }


def find_length_faults(lengths: dict[str, SplitLengths], settings: TokenSettings) -> list[Finding]:
    """What is to be said of the lengths of a run's rows, split by split."""
    return [finding for measured in lengths.values() for finding in _find_faults(measured, settings)]


def _find_faults(measured: SplitLengths, settings: TokenSettings) -> list[Finding]:
    counts, rows = measured.counts, say_count(measured.rows, "row")
    said = {
        "untrained": ("HF102", "has", "have", "nothing that is trained"),
        "empty": ("HF104", "says", "say", "nothing but blanks"),
        "near_empty": ("HF105", "says", "say", "nothing with a letter or a digit in it"),
        "spelled": ("HF107", "spells", "spell", "a control token, which stays text"),
    }
    found = [_describe_lost(measured, settings)] if measured.limits and measured.limits[0].lost else []
    for kind, (code, one, several, what) in said.items():
        if counts[kind]:
            what = f"{measured.split}: {counts[kind]:,} of {rows} {choose_verb(counts[kind], one, several)} {what}"
            found.append(Finding(code, what, measured.split, counts[kind], measured.places.get(kind, ())))
    if measured.limits and (count := measured.limits[0].without_end):
        cut = choose_verb(count, "is cut", "are cut")
        what = f"{measured.split}: {count:,} of {rows} {cut} inside a turn, whose end token is not trained"
        places = measured.places.get(f"without_end {measured.limits[0].limit}", ())
        found.append(Finding("HF103", what, measured.split, count, places))
    trained = measured.limits[0].trained_tokens if measured.limits else 0
    if counts["unknown"] > UNKNOWN * max(1, trained):
        tokens = say_count(counts["unknown"], "token")
        be = choose_verb(counts["unknown"], "is", "are")
        what = f"{measured.split}: {tokens} that {be} read or trained {be} unknown to the tokenizer"
        found.append(Finding("HF106", what, measured.split, places=measured.places.get("unknown", ())))
    return found


def _describe_lost(measured: SplitLengths, settings: TokenSettings) -> Finding:
    """`312 of 5,000 rows lose their answer, or its end, at 1,024 tokens; 2,048 would lose 9`."""
    (first, *others), key = measured.limits, "train.max_length"
    if measured.kind == "labelled":
        lose, key = choose_verb(first.lost, "loses its end", "lose their end"), "data.max_length"
    elif settings.data.too_long == "cut":
        lose = choose_verb(first.lost, "loses its answer, or the end of it,", "lose their answer, or its end,")
    else:
        lose = choose_verb(first.lost, "is left out, with its answer,", "are left out, with their answer,")
    rows, limit = say_count(measured.rows, "row"), say_count(first.limit, "token")
    what = f"{measured.split}: {first.lost:,} of {rows} {lose} at {limit}"
    saved = [f"{each.limit:,} would lose {each.lost:,}" for each in others]
    better = next((each for each in others if not each.lost), others[-1] if others else None)
    if better is None or better.lost == first.lost:
        remedy = "shorten these rows, or leave them as they are: no limit that the model takes saves any of them"
    else:
        remedy = f"set {key}: {better.limit}, if the memory allows it"
    places = measured.places.get(f"lost {first.limit}", ())
    return Finding(
        "HF101", "; ".join([what, ", ".join(saved)]) if saved else what, measured.split, first.lost, places, remedy
    )
