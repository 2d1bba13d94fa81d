"""Which rows go into which split: pure arithmetic on hashes, strata and groups.

Rows are taken in the order of their seeded hash, so a split depends on the content of the rows and not on their order
in the file. `Rows` are row numbers or codes, `Hashes` 64-bit content hashes.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from typing import TypeVar

import numpy as np
import numpy.typing as npt

Rows = npt.NDArray[np.int64]
Hashes = npt.NDArray[np.uint64]
Strata = npt.NDArray[np.int32]
Read = Callable[[], Iterable[tuple[Rows, Hashes, Strata]]]
"""Gives ascending row numbers, and the hash and the stratum of each, a number from 0, some at a time."""
_Number = TypeVar("_Number", np.int64, np.uint64)
MARGIN = 8
"""Standard deviations of the number of hashes below a limit by which more of them are looked at than are wanted."""


def shuffle_by_hash(hashes: Hashes, seed: int) -> Rows:
    """Shuffle rows by their seeded hashes (rows,) -> row numbers (rows,); equal rows stay in file order."""
    return np.argsort(_mix(hashes, seed), kind="stable")


def _mix(hashes: Hashes, seed: int) -> Hashes:
    """Return other random hashes, (rows,), for each seed."""
    # The finalizer of splitmix64: https://prng.di.unimi.it/splitmix64.c
    mixed = hashes + np.uint64((seed + 1) * 0x9E3779B97F4A7C15 % 2**64)
    for shift, factor in ((30, 0xBF58476D1CE4E5B9), (27, 0x94D049BB133111EB), (31, 1)):
        mixed ^= mixed >> np.uint64(shift)  # in place: it is as large as the rows
        mixed *= np.uint64(factor)
    return np.asarray(mixed, dtype=np.uint64)


def sort_distinct(values: npt.NDArray[_Number]) -> npt.NDArray[_Number]:
    """Sort whole numbers, (values,), and leave repeats out; an array that is sorted so already is returned as it is.

    Not np.unique, which numpy 2.3 does by a hash table: on 64-bit hashes that is ten times slower, and far larger.
    """
    if len(values) < 2 or bool((values[1:] > values[:-1]).all()):
        return values
    ordered = np.sort(values)
    first = np.ones(len(ordered), np.bool_)
    np.not_equal(ordered[1:], ordered[:-1], out=first[1:])
    return ordered if first.all() else ordered[first]


def draw_rows(read: Read, sizes: Rows, fractions: Mapping[str, float], seed: int) -> dict[str, Rows]:
    """Draw the rows of each split in `fractions`: ascending row numbers (rows of the split,); train has the rest.

    `sizes` are the rows of each stratum, (strata,), and `read` gives the stratum of each row. A split takes exactly its
    rounded share, and its share of each stratum to within one row; equal rows of a stratum stay together if there are
    enough others to fill the share. Memory is that of the rows that are drawn, and of small strata.
    """
    # Of each stratum the first rows in the order of their seeded hashes are enough, unless few of them could fill in.
    wanted = sum(fractions.values())
    shares = np.minimum(1.0, 1.1 * wanted + MARGIN * np.sqrt(wanted / sizes) + MARGIN / sizes)
    while True:
        some = _choose_below(read, shares, seed)
        taken, enough = _take_rows(some, shares == 1.0, sizes, fractions, seed)
        if enough.all():
            return taken
        shares[~enough] = np.minimum(1.0, 2 * shares[~enough])


def draw_first(read: Read, count: int, wanted: int, seed: int) -> Rows:
    """Draw `wanted` of the `count` rows of `read`, the first by their seeded hashes: ascending (wanted,)."""
    shares = np.array([min(1.0, (1.1 * wanted + MARGIN * np.sqrt(wanted) + MARGIN) / max(count, 1))])
    while True:
        some = _choose_below(read, shares, seed)
        if shares[0] == 1.0 or len(some.numbers) >= wanted:
            return np.sort(some.numbers[shuffle_by_hash(some.hashes, seed)[:wanted]])
        shares = np.minimum(1.0, 2 * shares)


@dataclass(frozen=True, slots=True)
class _Some:
    """Some rows: their ascending numbers, hashes and strata, (rows,) each."""

    numbers: Rows
    hashes: Hashes
    strata: Strata


def _choose_below(read: Read, shares: npt.NDArray[np.float64], seed: int) -> _Some:
    """Choose the rows whose seeded hashes are in the first share of all, by strata; `shares`: (strata,)."""
    whole = shares == 1.0
    limits = np.where(whole, np.uint64(2**64 - 1), (np.where(whole, 0.0, shares) * 2.0**64).astype(np.uint64))
    found = [(np.empty(0, np.int64), np.empty(0, np.uint64), np.empty(0, np.int32))]
    for numbers, hashes, strata in read():
        chosen = np.flatnonzero(_mix(hashes, seed) <= limits[strata])
        found.append((numbers[chosen], hashes[chosen], strata[chosen]))
    return _Some(*(np.concatenate(parts) for parts in zip(*found, strict=True)))


def _take_rows(
    some: _Some, whole: npt.NDArray[np.bool_], sizes: Rows, fractions: Mapping[str, float], seed: int
) -> tuple[dict[str, Rows], npt.NDArray[np.bool_]]:
    """Take the rounded share of each stratum by the seeded hashes, and tell of which strata `some` has rows enough.

    `whole`: the strata of which it has all rows. `whole`, `sizes` and what is told: (strata,).
    """
    order = shuffle_by_hash(some.hashes, seed)
    by_stratum = order if len(sizes) == 1 else order[np.argsort(some.strata[order], kind="stable")]
    here = np.bincount(some.strata, minlength=len(sizes))
    ends = np.cumsum(here)
    starts, left = ends - here, sizes - 1  # one row of each stratum stays in train
    taken: dict[str, Rows] = {}
    enough = np.ones(len(sizes), np.bool_)
    for name, fraction in fractions.items():
        counts = _apportion(sizes, left, fraction)
        enough &= whole | (starts + counts < ends)
        for stratum, (start, cut, end) in enumerate(zip(starts, starts + counts, ends, strict=True)):
            together = _keep_together(by_stratum[start:end], int(cut - start), some.hashes)
            enough[stratum] &= together or whole[stratum]
        taken[name] = np.concatenate(
            [by_stratum[start : start + count] for start, count in zip(starts, counts, strict=True)]
        )
        starts, left = starts + counts, left - counts
    return {name: np.sort(some.numbers[rows]) for name, rows in taken.items()}, enough


def _keep_together(rows: Rows, cut: int, hashes: Hashes) -> bool:
    """Reorder `rows` (rows,) in place such that `cut` does not separate equal rows; False where it does.

    It does so where there are too few single rows to fill in.
    """
    # The contents [a b b c d] cut at 2 would separate the two b: c takes their place, and [a c | b b d] remains.
    if cut == 0 or cut >= len(rows) or hashes[rows[cut - 1]] != hashes[rows[cut]]:
        return True
    ordered = hashes[rows]
    equal = np.flatnonzero(ordered == ordered[cut])
    first, behind = int(equal[0]), int(equal[-1]) + 1
    _, at, counts = np.unique(ordered[behind:], return_index=True, return_counts=True)
    single = behind + np.sort(at[counts == 1])[: cut - first]
    if len(single) < cut - first:
        return False
    others = np.setdiff1d(np.arange(behind, len(rows)), single)
    rows[first:] = rows[np.concatenate([single, equal, others])]
    return True


def _apportion(sizes: Rows, left: Rows, fraction: float) -> Rows:
    """Round `sizes * fraction`, at most `left`, by largest remainders; all arrays: (strata,)."""
    # Half of the sizes [3, 3, 4] is [1.5, 1.5, 2], and of all 10 rows 5: [2, 1, 2].
    exact = sizes * fraction
    counts: Rows = np.minimum(np.floor(exact).astype(np.int64), left)
    missing = round(float(sizes.sum() * fraction)) - int(counts.sum())
    by_remainder = np.argsort(counts - exact, kind="stable")
    room = by_remainder[counts[by_remainder] < left[by_remainder]]
    counts[room[: max(missing, 0)]] += 1
    return counts


def draw_groups(strata: Strata, groups: Strata, fractions: Mapping[str, float], seed: int) -> dict[str, Rows]:
    """Draw whole groups for each split in `fractions`: ascending row numbers (rows of the split,); train has the rest.

    The groups are walked in random order, and a split takes each that brings its strata closer to their shares, which
    are approximate. `strata` and `groups`: (rows,). Each split, train included, has at least one group. Memory: about
    30 bytes a row, and some hundred a group.
    """
    counts, members = _group_strata(strata, groups)
    waiting = shuffle_by_hash(np.arange(len(members), dtype=np.uint64), seed).tolist()
    totals = np.bincount(strata)
    taken: dict[str, Rows] = {}
    for number, (name, fraction) in enumerate(fractions.items()):
        # A group is taken if it reduces the sum of absolute distances to the shares: with 2 rows short, a group of 3 is
        # (|2 - 3| < |2|), one of 4 is not.
        short = totals * fraction
        most = len(waiting) - (len(fractions) - number)  # a group each for the later splits and train
        chosen: dict[int, None] = {}
        for group in waiting:
            which, many = counts[group]
            if len(chosen) < most and np.abs(short[which] - many).sum() < np.abs(short[which]).sum():
                short[which] -= many
                chosen[group] = None
        if not chosen:
            chosen = {min(waiting, key=lambda group: int(counts[group][1].sum())): None}
        waiting = [group for group in waiting if group not in chosen]
        taken[name] = np.sort(np.concatenate([members[group] for group in chosen]))
    return taken


def _group_strata(strata: Strata, groups: Strata) -> tuple[list[tuple[Strata, Rows]], list[Rows]]:
    """Return for each group its strata with their counts, (strata of it,) both, and its rows; arguments: (rows,)."""
    by_group = np.argsort(groups, kind="stable")
    members = np.split(by_group, np.cumsum(np.bincount(groups))[:-1])
    return [np.unique(strata[rows], return_counts=True) for rows in members], members
