"""Which rows go into which split: pure arithmetic on hashes, strata and groups.

Rows are taken in the order of their seeded hash, so a split depends on the content of the rows and not on their order
in the file. `Rows` are row numbers or codes, `Hashes` 64-bit content hashes.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from typing import TypeVar

import numpy as np
import numpy.typing as npt

Rows = npt.NDArray[np.int64]
Hashes = npt.NDArray[np.uint64]
Read = Callable[[], Iterable[tuple[Rows, Hashes]]]
"""Gives ascending row numbers and their hashes, some at a time."""
_MARGIN = 0.001
_Number = TypeVar("_Number", np.int64, np.uint64)


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


def split_rows(
    hashes: Hashes, strata: Rows, groups: Rows | None, fractions: Mapping[str, float], seed: int
) -> dict[str, Rows]:
    """Assign each row to one of the splits in `fractions` or to "train": ascending row numbers (rows of the split,).

    `hashes`, `strata` and `groups` are (rows,), the latter two codes from 0. Without groups a split takes exactly its
    rounded share, and its share of each stratum to within one row; equal rows of a stratum stay together if there are
    enough others to fill the share. With groups, which are never divided, shares are approximate.
    """
    if groups is None:
        taken, _ = _take_rows(hashes, shuffle_by_hash(hashes, seed), strata, np.bincount(strata), fractions)
    else:
        taken = _take_groups(strata, groups, fractions, seed)
    rest = np.ones(len(hashes), dtype=bool)
    for rows in taken.values():
        rest[rows] = False
    return {"train": np.flatnonzero(rest), **{name: np.sort(rows) for name, rows in taken.items()}}


def draw_rows(read: Read, count: int, fractions: Mapping[str, float], seed: int) -> dict[str, Rows]:
    """Draw the rows of each split but train as `split_rows` does without strata, out of the `count` rows of `read`.

    Memory is that of the rows that are drawn.
    """
    # The first rows in the order of their seeded hashes are enough, unless few of them could fill a share.
    share, sizes = min(1.0, 1.1 * sum(fractions.values()) + _MARGIN), np.array([count])
    while True:
        numbers, hashes = _choose_below(read, share, seed)
        one = np.zeros(len(hashes), np.int64)
        taken, together = _take_rows(hashes, shuffle_by_hash(hashes, seed), one, sizes, fractions)
        if share == 1.0 or (together and sum(map(len, taken.values())) < len(numbers)):
            return {name: np.sort(numbers[rows]) for name, rows in taken.items()}
        share = min(1.0, 2 * share)


def draw_first(read: Read, count: int, wanted: int, seed: int) -> Rows:
    """Draw `wanted` of the `count` rows of `read`, the first by their seeded hashes: ascending (wanted,)."""
    share = min(1.0, 1.1 * wanted / max(count, 1) + _MARGIN)
    while True:
        numbers, hashes = _choose_below(read, share, seed)
        if share == 1.0 or len(numbers) >= wanted:
            return np.sort(numbers[shuffle_by_hash(hashes, seed)[:wanted]])
        share = min(1.0, 2 * share)


def _choose_below(read: Read, share: float, seed: int) -> tuple[Rows, Hashes]:
    """Choose the rows whose seeded hashes are in the first `share` of all: numbers and hashes, (rows,) both."""
    limit = np.uint64(2**64 - 1) if share == 1.0 else np.uint64(int(share * 2.0**64))
    found = [(np.empty(0, np.int64), np.empty(0, np.uint64))]
    for numbers, hashes in read():
        chosen = np.flatnonzero(_mix(hashes, seed) <= limit)
        found.append((numbers[chosen], hashes[chosen]))
    return np.concatenate([numbers for numbers, _ in found]), np.concatenate([hashes for _, hashes in found])


def _take_rows(
    hashes: Hashes, order: Rows, strata: Rows, sizes: Rows, fractions: Mapping[str, float]
) -> tuple[dict[str, Rows], bool]:
    """Take the rounded share of each stratum, in `order`, and tell whether equal rows stay together.

    `hashes`, `order` and `strata`: (rows,), `sizes`: (strata,); of a single stratum the first of its rows may do.
    """
    by_stratum = order if len(sizes) == 1 else order[np.argsort(strata[order], kind="stable")]
    ends = np.cumsum(sizes)
    starts = ends - sizes
    left = sizes - 1  # one row of each stratum stays in train
    taken: dict[str, Rows] = {}
    together = True
    for name, fraction in fractions.items():
        counts = _apportion(sizes, left, fraction)
        for start, cut, end in zip(starts, starts + counts, ends, strict=True):
            together &= _keep_together(by_stratum[start:end], int(cut - start), hashes)
        taken[name] = np.concatenate(
            [by_stratum[start : start + count] for start, count in zip(starts, counts, strict=True)]
        )
        starts, left = starts + counts, left - counts
    return taken, together


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


def _take_groups(strata: Rows, groups: Rows, fractions: Mapping[str, float], seed: int) -> dict[str, Rows]:
    """Walk the groups in random order; a split takes each that brings its strata closer to their shares.

    `strata` and `groups`: (rows,). Each split, train included, has at least one group.
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
        taken[name] = np.concatenate([members[group] for group in chosen])
    return taken


def _group_strata(strata: Rows, groups: Rows) -> tuple[list[tuple[Rows, Rows]], list[Rows]]:
    """Return for each group its strata with their counts, (strata of it,) both, and its rows; arguments: (rows,)."""
    by_group = np.argsort(groups, kind="stable")
    members = np.split(by_group, np.cumsum(np.bincount(groups))[:-1])
    return [np.unique(strata[rows], return_counts=True) for rows in members], members
