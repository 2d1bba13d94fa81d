"""Splits take the share they were told, keep strata in proportion and groups whole, and depend on the seed alone."""

from __future__ import annotations

import numpy as np
from hypothesis import given, settings
from hypothesis import strategies as st

from hf_finetune.data.splitting.assignment import repeat_rows, shuffle_by_hash, split_rows

FRACTIONS = {"validation": 0.1, "test": 0.2}


def hashes_of(count, seed=0):
    return np.random.default_rng(seed).integers(0, 2**63, count).astype(np.uint64)


def no_strata(count):
    return np.zeros(count, dtype=np.int64)


@settings(max_examples=200, deadline=None)
@given(
    sizes=st.lists(st.integers(2, 60), min_size=1, max_size=6),
    first=st.floats(0.05, 0.45),
    second=st.floats(0.05, 0.45),
    seed=st.integers(0, 2**32),
)
def test_every_row_is_in_one_split_and_each_stratum_keeps_its_share(sizes, first, second, seed):
    strata = np.repeat(np.arange(len(sizes)), sizes)
    fractions = {"validation": first, "test": second}
    parts = split_rows(hashes_of(len(strata)), strata, None, fractions, seed)
    assert sorted(np.concatenate(list(parts.values()))) == list(range(len(strata)))
    for name, fraction in fractions.items():
        counts = np.bincount(strata[parts[name]], minlength=len(sizes))
        assert np.all(counts <= np.array(sizes) * fraction + 1)
    assert np.all(np.bincount(strata[parts["train"]], minlength=len(sizes)) >= 1)


def test_shares_are_exact_without_strata_and_within_one_row_with_them():
    strata = np.repeat([0, 1, 2], [700, 250, 50])
    parts = split_rows(hashes_of(1000), strata, None, FRACTIONS, 3)
    assert {name: len(rows) for name, rows in parts.items()} == {"train": 700, "validation": 100, "test": 200}
    assert np.bincount(strata[parts["validation"]]).tolist() == [70, 25, 5]
    assert np.bincount(strata[parts["test"]]).tolist() == [140, 50, 10]
    odd = split_rows(hashes_of(777), no_strata(777), None, FRACTIONS, 3)
    assert {name: len(rows) for name, rows in odd.items()} == {"train": 544, "validation": 78, "test": 155}


@settings(max_examples=200, deadline=None)
@given(
    copies=st.lists(st.integers(1, 6), min_size=30, max_size=60),
    strata_count=st.integers(1, 3),
    seed=st.integers(0, 2**32),
)
def test_equal_rows_stay_together_and_shares_stay_exact(copies, strata_count, seed):
    copies += [1] * 40  # rows enough to fill a share with
    distinct = hashes_of(len(copies), seed)
    hashes = np.random.default_rng(seed).permutation(np.repeat(distinct, copies))
    strata = np.unique(hashes % np.uint64(strata_count), return_inverse=True)[1]
    parts = split_rows(hashes, strata, None, FRACTIONS, seed)
    assert sorted(np.concatenate(list(parts.values()))) == list(range(len(hashes)))
    assert {name: len(parts[name]) for name in FRACTIONS} == {
        name: round(len(hashes) * fraction) for name, fraction in FRACTIONS.items()
    }
    members = [set(hashes[rows].tolist()) for rows in parts.values()]
    assert sum(map(len, members)) == len(set(hashes.tolist()))


def test_rows_that_are_all_equal_are_parted_all_the_same():
    parts = split_rows(np.full(10, 7, dtype=np.uint64), no_strata(10), None, FRACTIONS, 0)
    assert {name: len(rows) for name, rows in parts.items()} == {"train": 7, "validation": 1, "test": 2}


def test_a_split_depends_on_the_rows_and_the_seed_and_not_on_the_order_of_the_file():
    hashes = hashes_of(500)
    shuffled = np.random.default_rng(1).permutation(500)

    def members(order, seed):
        parts = split_rows(hashes[order], no_strata(500), None, FRACTIONS, seed)
        return {name: set(hashes[order][rows].tolist()) for name, rows in parts.items()}

    assert members(np.arange(500), 0) == members(shuffled, 0)
    assert members(np.arange(500), 0) != members(np.arange(500), 1)


@settings(max_examples=200, deadline=None)
@given(
    group_sizes=st.lists(st.integers(1, 30), min_size=3, max_size=40),
    strata_count=st.integers(1, 4),
    seed=st.integers(0, 2**32),
)
def test_no_group_is_in_two_splits_and_no_split_is_empty(group_sizes, strata_count, seed):
    groups = np.random.default_rng(seed).permutation(np.repeat(np.arange(len(group_sizes)), group_sizes))
    strata = np.random.default_rng(seed + 1).integers(0, strata_count, len(groups))
    strata = np.unique(strata, return_inverse=True)[1]
    parts = split_rows(hashes_of(len(groups)), strata, groups, FRACTIONS, seed)
    members = [set(groups[rows].tolist()) for rows in parts.values()]
    assert all(members)
    assert sum(map(len, members)) == len(group_sizes)
    assert sorted(np.concatenate(list(parts.values()))) == list(range(len(groups)))


def test_groups_and_strata_together_are_nearly_in_proportion():
    rng = np.random.default_rng(0)
    groups = np.repeat(np.arange(400), rng.integers(1, 12, 400))
    strata = (rng.random(len(groups)) < 0.2).astype(np.int64)
    parts = split_rows(hashes_of(len(groups)), strata, groups, FRACTIONS, 0)
    for name, fraction in FRACTIONS.items():
        share = np.bincount(strata[parts[name]]) / np.bincount(strata)
        assert np.all(np.abs(share - fraction) < 0.01), name


def test_a_group_size_does_not_decide_its_split():
    sizes = np.tile([1, 40], 200)
    groups = np.repeat(np.arange(400), sizes)
    validation = split_rows(hashes_of(len(groups)), no_strata(len(groups)), groups, {"validation": 0.25}, 0)[
        "validation"
    ]
    chosen = sizes[np.unique(groups[validation])]
    assert 0.35 < np.mean(chosen == 40) < 0.65


def test_equal_rows_keep_their_order_and_distinct_ones_are_shuffled():
    order = shuffle_by_hash(np.full(10, 7, dtype=np.uint64), 3)
    assert order.tolist() == list(range(10))
    assert shuffle_by_hash(np.arange(100, dtype=np.uint64), 3).tolist() != list(range(100))


def test_weights_repeat_rows_and_choose_a_seeded_part():
    rows, hashes = np.arange(10, 110), hashes_of(200)
    assert repeat_rows(rows, hashes, 2.0, 0).tolist() == [*range(10, 110), *range(10, 110)]
    half = repeat_rows(rows, hashes, 0.5, 0)
    assert len(half) == len(set(half.tolist())) == 50
    assert half.tolist() == repeat_rows(rows, hashes, 0.5, 0).tolist() != repeat_rows(rows, hashes, 0.5, 1).tolist()
    counts = np.bincount(repeat_rows(rows, hashes, 1.3, 0))[10:]
    assert sorted(counts.tolist()) == [1] * 70 + [2] * 30
