"""Training rows by the weight of their source: repeated by its whole part, and some of them once more."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from functools import partial

import numpy as np
from datasets import Dataset

from hf_finetune.cache.arrays import iterate_pieces, map_numbers
from hf_finetune.data.reading.arrow import ROW_HASH, SOURCE
from hf_finetune.data.splitting.assignment import Hashes, Rows, Strata, draw_first
from hf_finetune.data.splitting.batches import gather_columns
from hf_finetune.errors import DataError, Problem


def apply_weights(rows: Rows, table: Dataset, weights: Sequence[float], seed: int) -> tuple[Rows, Rows]:
    """Repeat or thin out the training rows (rows,) by the weight of their source; also returns each of them once.

    10 rows of a source with weight 2.3 give 23: all of them twice, and 3 that are drawn. Raises `DataError` for a
    weight that leaves no row.
    """
    if all(weight == 1.0 for weight in weights):
        return rows, rows
    counts = np.zeros(len(weights), np.int64)
    for _, _, sources in _iterate(rows, table):
        counts += np.bincount(sources, minlength=len(weights))
    extra = []
    for number, (weight, count) in enumerate(zip(weights, counts.tolist(), strict=True)):
        wanted = round((weight - int(weight)) * count)
        extra.append(draw_first(partial(_iterate_source, rows, table, number), count, wanted, seed))
        if not int(weight) * count + wanted:
            what = f"the weight {weight} of source {number + 1} leaves it no row"
            raise DataError(Problem(what, "raise the weight, or take the source out", key="data.train", code="HF215"))
    return (
        map_numbers(_iterate_weighted(rows, table, weights, extra), np.int64),
        map_numbers(_iterate_once(rows, table, weights, extra), np.int64),
    )


def _iterate(rows: Rows, table: Dataset) -> Iterator[tuple[Rows, Hashes, Rows]]:
    """Yield row numbers with the hash and the source of each, some at a time."""
    done = 0
    for some in gather_columns(table, [ROW_HASH, SOURCE], rows):
        count = len(some[SOURCE])
        yield np.array(rows[done : done + count]), some[ROW_HASH], some[SOURCE]
        done += count


def _iterate_source(rows: Rows, table: Dataset, number: int) -> Iterator[tuple[Rows, Hashes, Strata]]:
    for some, hashes, sources in _iterate(rows, table):
        own = sources == number
        yield some[own], hashes[own], np.zeros(int(own.sum()), np.int32)


def _iterate_weighted(rows: Rows, table: Dataset, weights: Sequence[float], extra: Sequence[Rows]) -> Iterator[Rows]:
    for number, weight in enumerate(weights):
        for _ in range(int(weight)):
            yield from (some for some, _, _ in _iterate_source(rows, table, number))
        yield from (some for _, some in iterate_pieces(extra[number]))


def _iterate_once(rows: Rows, table: Dataset, weights: Sequence[float], extra: Sequence[Rows]) -> Iterator[Rows]:
    whole = np.array([weight >= 1.0 for weight in weights])
    for some, _, sources in _iterate(rows, table):
        chosen = whole[sources]
        for drawn in extra:
            first, behind = np.searchsorted(drawn, [some[0], some[-1] + 1])
            chosen |= np.isin(some, drawn[first:behind], assume_unique=True)
        yield some[chosen]
