"""The settings of a run that divide rows -> which rows each split has, before they are compared."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from functools import partial
from itertools import chain, islice

import numpy as np
import numpy.typing as npt
from datasets import Dataset

from hf_finetune.cache.arrays import give_back_pages, iterate_pieces, map_numbers
from hf_finetune.config.sections import DataSection
from hf_finetune.data.reading.arrow import GROUP, STRATUM
from hf_finetune.data.reading.sources import DataFile
from hf_finetune.data.splitting.assignment import Hashes, Rows, draw_groups, draw_rows
from hf_finetune.data.splitting.batches import Codes, encode_values
from hf_finetune.data.splitting.chosen_rows import Choice, Selection, number_all, number_others, read_hashes
from hf_finetune.data.splitting.leakage import locate_rows
from hf_finetune.data.splitting.weights import apply_weights
from hf_finetune.errors import DataError, Problem
from hf_finetune.metric_info import choose_verb, say_count

_MAX_PLACES_SHOWN = 5


def assign_rows(
    tables: Mapping[str, Dataset], data: DataSection, seed: int, files: Sequence[DataFile], label: str | None
) -> Choice:
    """Assign rows to splits: for each split the role whose files it comes from, and its row numbers there (rows,)."""
    weights = list({file.source: file.weight for file in files}.values())
    wanted = {"validation": data.validation_fraction, "test": data.test_fraction}
    table, fractions = tables["train"], {name: share for name, share in wanted.items() if share is not None}
    drawn = _draw_rows(table, data, seed, files, fractions, label) if fractions else {}
    _check_no_part_empty(drawn, fractions, len(table))
    taken = np.sort(np.concatenate([np.empty(0, np.int64), *drawn.values()]))
    train, trained = apply_weights(number_others(len(table), taken), table, weights, seed)
    chosen = {role: (role, number_all(len(each))) for role, each in tables.items() if role != "train"}
    chosen |= {"train": ("train", train), **{name: ("train", rows) for name, rows in drawn.items()}}
    splits: Selection = {name: chosen[name] for name in ("train", "validation", "test") if name in chosen}
    return Choice(splits, trained, {})


def _draw_rows(
    table: Dataset,
    data: DataSection,
    seed: int,
    files: Sequence[DataFile],
    fractions: Mapping[str, float],
    label: str | None,
) -> dict[str, Rows]:
    """Draw the rows of each split in `fractions`: their numbers, ascending (rows of the split,)."""
    strata = None
    if data.stratify_by is not None:
        strata = _compute_strata(table, files, data.stratify_by, is_label=data.stratify_by == label)
    if data.group_by is not None:
        groups = _compute_groups(table, data.group_by, len(fractions))
        none = np.broadcast_to(np.int32(0), len(table))  # one for all, which takes no memory
        return draw_groups(none if strata is None else strata, groups, fractions, seed)
    sizes = np.array([len(table)]) if strata is None else _count(strata)
    return draw_rows(partial(_read_strata, table, strata), sizes, fractions, seed)


def _read_strata(table: Dataset, strata: Codes | None) -> Iterator[tuple[Rows, Hashes, Codes]]:
    """Yield the numbers, hashes and strata of all rows, some at a time."""
    for numbers, hashes in read_hashes(table):
        some = np.zeros(len(numbers), np.int32) if strata is None else strata[numbers[0] : numbers[-1] + 1]
        yield numbers, hashes, np.array(some)
        if strata is not None:
            give_back_pages(strata)


def _count(codes: Codes) -> Rows:
    """Count the rows of each code: (codes,)."""
    counts = np.zeros(1, np.int64)
    for _, piece in iterate_pieces(codes):
        here = np.bincount(piece, minlength=len(counts))
        here[: len(counts)] += counts
        counts = here
    return counts


def _compute_strata(table: Dataset, files: Sequence[DataFile], key: str, *, is_label: bool) -> Codes:
    """Return the stratum of each row, a number from 0 by its value of `key`: (rows,).

    Labels of a single row, or sets of them, are pooled in one stratum: sets cannot all be frequent, and a rare label is
    reported where labels are frozen. Raises DataError for values of another field that have a single row.
    """
    codes, values = _encode_column(table, STRATUM)
    alone = _count(codes) == 1
    if is_label:
        # The labels [a a b c], where b and c are alone, are the strata [0 0 1 1].
        pooled = np.where(alone, len(values), np.arange(len(values)))
        return _translate(codes, np.unique(pooled, return_inverse=True)[1])
    if alone.any():
        found = (start + np.flatnonzero(alone[piece]) for start, piece in iterate_pieces(codes))
        rows = np.array(list(islice(chain.from_iterable(found), _MAX_PLACES_SHOWN)))
        places, count = locate_rows(table, files, rows), int(alone.sum())
        first = ", ".join("{}:{}".format(*places.locate(row)) for row in range(len(rows)))
        first += ", ..." if count > _MAX_PLACES_SHOWN else ""
        have = choose_verb(count, "has", "have")
        whole = f"{count:,} of {say_count(len(values), 'value')} of `{key}`"
        what = f"{whole} {have} a single row, which cannot be in two splits"
        remedy = "merge rare values, add rows, or stratify by another field"
        raise DataError(Problem(f"{what} ({first})", remedy, key="data.stratify_by", code="HF216"))
    return codes


def _compute_groups(table: Dataset, key: str, fractions: int) -> Codes:
    """Return the group of each row, a number from 0: (rows,). Raises DataError for fewer groups than splits."""
    codes, values = _encode_column(table, GROUP)
    if len(values) <= fractions:
        what = f"`{key}` has {say_count(len(values), 'group')}, too few for {fractions + 1} splits"
        raise DataError(Problem(what, "group by a field with more values", key="data.group_by", code="HF217"))
    return codes


def number_groups(table: Dataset, numbers: Rows) -> Rows:
    """Number the groups of the rows `numbers`, (rows,), of a table from 0, in the order of their values: (rows,)."""
    codes, values = _encode_column(table, GROUP)
    here = np.zeros(len(values), np.bool_)
    for _, piece in iterate_pieces(numbers):
        here[codes[piece]] = True
        give_back_pages(codes)
    ranks = np.cumsum(here) - 1
    pieces = (ranks[codes[piece]] for _, piece in iterate_pieces(numbers))
    return map_numbers(pieces, np.int64)


def _check_no_part_empty(parts: Mapping[str, Rows], fractions: Mapping[str, float], rows: int) -> None:
    problems = [
        Problem(
            f"{fractions[name]} of {say_count(rows, 'row')} gives {name} no row",
            "change the fraction, add rows, or cut text into smaller documents (data.format paragraphs or lines)",
            key=f"data.{name}_fraction",
            code="HF213",
        )
        for name, numbers in parts.items()
        if not len(numbers)
    ]
    if problems:
        raise DataError(problems)


def _encode_column(table: Dataset, column: str) -> tuple[Codes, list[str]]:
    """Encode a column as the rank of each row's value: codes (rows,) from 0, mapped, and the sorted values."""
    # ["b", "a", "b"] -> [1, 0, 1], ["a", "b"]. Not Arrow's own codes, which follow the order of the rows.
    codes, values = encode_values(table, column)
    ranks = np.empty(len(values), np.int32)
    ranks[np.argsort(np.array(values, dtype=object))] = np.arange(len(values))
    return _translate(codes, ranks), sorted(values)


def _translate(codes: Codes, table: npt.NDArray[np.integer]) -> Codes:
    """Look each of `codes`, (rows,), up in `table`, (codes,): mapped."""
    pieces = (table[piece].astype(np.int32) for _, piece in iterate_pieces(codes))
    return map_numbers(pieces, np.int32)
