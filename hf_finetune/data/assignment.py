"""Which rows go into which split: pure arithmetic on hashes, strata and groups.

Rows are taken in the order of their seeded hash, so a split depends on what the rows are and not on where they stand in
the file.
"""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np
import numpy.typing as npt

Rows = npt.NDArray[np.int64]
Hashes = npt.NDArray[np.uint64]


def seeded_order(hashes: Hashes, seed: int) -> Rows:
    """Return row numbers in a random order that the seed and the rows' hashes decide; equal rows stay in file order."""
    return np.argsort(_mix(hashes, seed), kind="stable")


def _mix(hashes: Hashes, seed: int) -> Hashes:
    # splitmix64's finaliser: https://prng.di.unimi.it/splitmix64.c
    mixed = hashes + np.uint64((seed + 1) * 0x9E3779B97F4A7C15 % 2**64)
    mixed = (mixed ^ (mixed >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
    mixed = (mixed ^ (mixed >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
    return np.asarray(mixed ^ (mixed >> np.uint64(31)), dtype=np.uint64)


def split_rows(
    hashes: Hashes, strata: Rows, groups: Rows | None, fractions: Mapping[str, float], seed: int
) -> dict[str, Rows]:
    """Assign each row to one of the splits in `fractions` or to "train"; row numbers come back in ascending order.

    `strata` and `groups` hold a code from 0 for each row. Without groups a split takes exactly its rounded share, and
    of each stratum its share to within one row; equal rows of a stratum stay together where there are enough others to
    fill the share with. Groups stay whole, so shares are then approximate.
    """
    if groups is None:
        taken = _take_rows(hashes, seeded_order(hashes, seed), strata, fractions)
    else:
        taken = _take_groups(strata, groups, fractions, seed)
    rest = np.ones(len(hashes), dtype=bool)
    for rows in taken.values():
        rest[rows] = False
    return {"train": np.flatnonzero(rest), **{name: np.sort(rows) for name, rows in taken.items()}}


def _take_rows(hashes: Hashes, order: Rows, strata: Rows, fractions: Mapping[str, float]) -> dict[str, Rows]:
    sizes = np.bincount(strata)
    by_stratum = order[np.argsort(strata[order], kind="stable")]
    ends = np.cumsum(sizes)
    starts = ends - sizes
    left = sizes - 1  # one row of each stratum stays in train
    taken: dict[str, Rows] = {}
    for name, fraction in fractions.items():
        counts = _apportion(sizes, left, fraction)
        for start, cut, end in zip(starts, starts + counts, ends, strict=True):
            _keep_together(by_stratum[start:end], int(cut - start), hashes)
        taken[name] = np.concatenate(
            [by_stratum[start : start + count] for start, count in zip(starts, counts, strict=True)]
        )
        starts, left = starts + counts, left - counts
    return taken


def _keep_together(rows: Rows, cut: int, hashes: Hashes) -> None:
    """Where `cut` would part equal rows, put as many single rows from behind them in their place (in place)."""
    if cut == 0 or cut == len(rows) or hashes[rows[cut - 1]] != hashes[rows[cut]]:
        return
    ordered = hashes[rows]
    equal = np.flatnonzero(ordered == ordered[cut])
    first, behind = int(equal[0]), int(equal[-1]) + 1
    _, at, counts = np.unique(ordered[behind:], return_index=True, return_counts=True)
    single = behind + np.sort(at[counts == 1])[: cut - first]
    if len(single) == cut - first:
        others = np.setdiff1d(np.arange(behind, len(rows)), single)
        rows[first:] = rows[np.concatenate([single, equal, others])]


def _apportion(sizes: Rows, left: Rows, fraction: float) -> Rows:
    """Round `sizes * fraction`, at most `left`, to the rounded share of all: largest remainders first."""
    exact = sizes * fraction
    counts: Rows = np.minimum(np.floor(exact).astype(np.int64), left)
    missing = round(float(sizes.sum() * fraction)) - int(counts.sum())
    by_remainder = np.argsort(counts - exact, kind="stable")
    room = by_remainder[counts[by_remainder] < left[by_remainder]]
    counts[room[: max(missing, 0)]] += 1
    return counts


def _take_groups(strata: Rows, groups: Rows, fractions: Mapping[str, float], seed: int) -> dict[str, Rows]:
    """Walk the groups in random order; a split takes each that brings its strata nearer to their shares."""
    counts, members = _group_strata(strata, groups)
    waiting = seeded_order(np.arange(len(members), dtype=np.uint64), seed).tolist()
    totals = np.bincount(strata)
    taken: dict[str, Rows] = {}
    for number, (name, fraction) in enumerate(fractions.items()):
        short = totals * fraction
        most = len(waiting) - (len(fractions) - number)  # each later split and train need a group too
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
    """Return for each group its strata with their counts, and its rows."""
    by_group = np.argsort(groups, kind="stable")
    members = np.split(by_group, np.cumsum(np.bincount(groups))[:-1])
    return [np.unique(strata[rows], return_counts=True) for rows in members], members


def weighted_rows(rows: Rows, hashes: Hashes, weight: float, seed: int) -> Rows:
    """Repeat `rows` by the whole part of `weight` and add a seeded choice of them for its fraction."""
    whole, part = int(weight), weight - int(weight)
    extra = seeded_order(hashes[rows], seed)[: round(part * len(rows))]
    return np.concatenate([np.tile(rows, whole), rows[np.sort(extra)]])
