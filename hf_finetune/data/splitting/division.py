"""The settings of a run that divide rows -> which rows each split has, before they are compared."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from functools import partial

import numpy as np
from datasets import Dataset

from hf_finetune.config.sections import DataSection
from hf_finetune.data.reading.arrow import GROUP, STRATUM
from hf_finetune.data.reading.sources import DataFile
from hf_finetune.data.splitting.assignment import Rows, draw_rows, split_rows
from hf_finetune.data.splitting.batches import encode_values
from hf_finetune.data.splitting.chosen_rows import Choice, Selection, number_all, number_others, read_hashes
from hf_finetune.data.splitting.leakage import get_row_hashes, locate_rows
from hf_finetune.data.splitting.weights import apply_weights
from hf_finetune.errors import DataError, Problem

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
    if data.stratify_by is None and data.group_by is None:
        return draw_rows(partial(read_hashes, table), len(table), fractions, seed)
    strata = np.broadcast_to(np.int64(0), len(table))  # one for all, which takes no memory
    if data.stratify_by is not None:
        strata = _compute_strata(table, files, data.stratify_by, is_label=data.stratify_by == label)
    groups = _compute_groups(table, data.group_by, len(fractions)) if data.group_by is not None else None
    parts = split_rows(get_row_hashes(table), strata, groups, fractions, seed)
    return {name: rows for name, rows in parts.items() if name != "train"}


def _compute_strata(table: Dataset, files: Sequence[DataFile], key: str, *, is_label: bool) -> Rows:
    """Return the stratum of each row, a number from 0 by its value of `key`: (rows,).

    Labels of a single row, or sets of them, are pooled in one stratum: sets cannot all be frequent, and a rare label is
    reported where labels are frozen. Raises DataError for values of another field that have a single row.
    """
    codes, values = _encode_column(table, STRATUM)
    alone = np.bincount(codes) == 1
    if is_label:
        # The labels [a a b c], where b and c are alone, are the strata [0 0 1 1].
        strata: Rows = np.where(alone, len(values), np.arange(len(values)))[codes]
        return np.unique(strata, return_inverse=True)[1]
    if alone.any():
        rows = np.flatnonzero(alone[codes])
        places = locate_rows(table, files, rows)
        first = ", ".join("{}:{}".format(*places.locate(row)) for row in range(min(len(rows), _MAX_PLACES_SHOWN)))
        first += ", ..." if len(rows) > _MAX_PLACES_SHOWN else ""
        what = f"{len(rows):,} of {len(values):,} values of `{key}` have a single row, which cannot be in two splits"
        remedy = "merge rare values, add rows, or stratify by another field"
        raise DataError(Problem(f"{what} ({first})", remedy, key="data.stratify_by"))
    return codes


def _compute_groups(table: Dataset, key: str, fractions: int) -> Rows:
    """Return the group of each row, a number from 0: (rows,). Raises DataError for fewer groups than splits."""
    codes, values = _encode_column(table, GROUP)
    if len(values) <= fractions:
        what = f"`{key}` has {len(values)} groups, too few for {fractions + 1} splits"
        raise DataError(Problem(what, "group by a field with more values", key="data.group_by"))
    return codes


def number_groups(table: Dataset, numbers: Rows) -> Rows:
    """Number the groups of the rows `numbers`, (rows,), of a table from 0: (rows,)."""
    codes, _ = _encode_column(table, GROUP)
    return np.asarray(np.unique(codes[numbers], return_inverse=True)[1], dtype=np.int64)


def _check_no_part_empty(parts: Mapping[str, Rows], fractions: Mapping[str, float], rows: int) -> None:
    problems = [
        Problem(
            f"{fractions[name]} of {rows:,} rows gives {name} no row",
            "change the fraction, add rows, or cut text into smaller documents (data.format paragraphs or lines)",
            key=f"data.{name}_fraction",
        )
        for name, numbers in parts.items()
        if not len(numbers)
    ]
    if problems:
        raise DataError(problems)


def _encode_column(table: Dataset, column: str) -> tuple[Rows, list[str]]:
    """Encode a column as the rank of each row's value: codes (rows,) from 0, and the sorted values."""
    # ["b", "a", "b"] -> [1, 0, 1], ["a", "b"]. Not Arrow's own codes, which follow the order of the rows.
    codes, values = encode_values(table, column)
    ranks = np.empty(len(values), dtype=np.int64)
    ranks[np.argsort(np.array(values, dtype=object))] = np.arange(len(values))
    return ranks[codes], sorted(values)
