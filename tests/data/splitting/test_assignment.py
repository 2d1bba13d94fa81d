"""Splits take the share they were told, keep strata in proportion and groups whole, and depend on the seed alone."""

from __future__ import annotations

import numpy as np
import pyarrow as pa
import pytest
from datasets import Dataset
from hypothesis import given, settings
from hypothesis import strategies as st

import hf_finetune.data.splitting.assignment as assignment_module
from hf_finetune.data.reading.arrow import ROW_HASH, SOURCE
from hf_finetune.data.splitting.assignment import draw_first, draw_groups, draw_rows, shuffle_by_hash
from hf_finetune.data.splitting.weights import apply_weights

FRACTIONS = {"validation": 0.1, "test": 0.2}


def hashes_of(count, seed=0):
    return np.random.default_rng(seed).integers(0, 2**63, count).astype(np.uint64)


def no_strata(count):
    return np.zeros(count, dtype=np.int64)


def read(hashes, strata=None, rows=None, at_once=7):
    """Give the rows some at a time."""
    rows = np.arange(len(hashes)) if rows is None else rows
    strata = no_strata(len(hashes)) if strata is None else strata
    pieces = np.array_split(rows, max(1, len(rows) // at_once))
    return lambda: ((some, hashes[some], strata[some].astype(np.int32)) for some in pieces)


def split_rows(hashes, strata, groups, fractions, seed):
    """The rows of each split, train among them."""
    if groups is None:
        parts = draw_rows(read(hashes, strata), np.bincount(strata), fractions, seed)
    else:
        parts = draw_groups(strata, groups, fractions, seed)
    taken = np.concatenate(list(parts.values()))
    return {"train": np.setdiff1d(np.arange(len(hashes)), taken), **parts}


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


# Some at a time, against all at once in plain Python


def apportion(sizes, left, fraction):
    """Largest remainders: the rows that are still missing go to the strata that are furthest below their shares."""
    exact = [size * fraction for size in sizes]
    counts = [min(int(share), room) for share, room in zip(exact, left, strict=True)]
    missing = max(0, round(sum(sizes) * fraction) - sum(counts))
    nearest = sorted(range(len(sizes)), key=lambda stratum: counts[stratum] - exact[stratum])
    for stratum in [each for each in nearest if counts[each] < left[each]][:missing]:
        counts[stratum] += 1
    return counts


def keep_together(rows, cut, hashes):
    if not 0 < cut < len(rows) or hashes[rows[cut - 1]] != hashes[rows[cut]]:
        return rows
    here = [place for place, row in enumerate(rows) if hashes[row] == hashes[rows[cut]]]
    first, behind = here[0], rows[here[-1] + 1 :]
    values = [hashes[row] for row in behind]
    single = [row for row in behind if values.count(hashes[row]) == 1][: cut - first]
    if len(single) < cut - first:
        return rows
    equal = rows[first : here[-1] + 1]
    return rows[:first] + single + equal + [row for row in behind if row not in single]


def draw_plainly(hashes, strata, fractions, seed):
    order = shuffle_by_hash(hashes, seed).tolist()
    rows = [[row for row in order if strata[row] == stratum] for stratum in range(max(strata) + 1)]
    sizes, taken = [len(each) for each in rows], {}
    for name, fraction in fractions.items():
        left = [len(each) - 1 for each in rows]
        counts = apportion(sizes, left, fraction)
        rows = [keep_together(each, count, hashes) for each, count in zip(rows, counts, strict=True)]
        taken[name] = sorted(row for each, count in zip(rows, counts, strict=True) for row in each[:count])
        rows = [each[count:] for each, count in zip(rows, counts, strict=True)]
    return taken


@settings(max_examples=150, deadline=None)
@given(
    copies=st.lists(st.integers(1, 9), min_size=3, max_size=90),
    strata_count=st.integers(1, 3),
    first=st.floats(0.01, 0.49),
    second=st.floats(0.01, 0.49),
    seed=st.integers(0, 2**32),
    margin=st.sampled_from([0, assignment_module.MARGIN]),
)
def test_rows_that_are_drawn_some_at_a_time_are_those_drawn_of_all(copies, strata_count, first, second, seed, margin):
    hashes = np.random.default_rng(seed).permutation(np.repeat(hashes_of(len(copies), seed), copies))
    strata = np.unique(hashes % np.uint64(strata_count), return_inverse=True)[1]
    fractions = {"validation": first, "test": second}
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(assignment_module, "MARGIN", margin)  # without one there are too few at first
        found = draw_rows(read(hashes, strata), np.bincount(strata), fractions, seed)
    expected = draw_plainly(hashes, strata.tolist(), fractions, seed)
    assert {name: rows.tolist() for name, rows in found.items()} == expected


@pytest.mark.parametrize("copies", [1, 37])
def test_of_many_rows_a_few_more_than_are_drawn_are_looked_at_and_all_where_most_are_copies(monkeypatch, copies):
    hashes = np.repeat(hashes_of(6_000 // copies), copies)
    seen = []
    whole = assignment_module._choose_below
    monkeypatch.setattr(assignment_module, "_choose_below", lambda *given: seen.append(found := whole(*given)) or found)
    found = draw_rows(read(hashes, at_once=500), np.array([len(hashes)]), {"validation": 0.02}, 0)
    assert {"validation": found["validation"].tolist()} == draw_plainly(
        hashes, [0] * len(hashes), {"validation": 0.02}, 0
    )
    looked_at = [len(some.numbers) for some in seen]
    assert looked_at == sorted(looked_at)
    assert (looked_at[-1] == len(hashes)) == (copies > 1)
    assert looked_at[0] < 600


@settings(max_examples=100, deadline=None)
@given(count=st.integers(1, 200), data=st.data(), seed=st.integers(0, 2**32))
def test_of_some_rows_those_with_the_first_hashes_are_drawn_equal_ones_by_their_numbers(count, data, seed):
    hashes = np.random.default_rng(seed).integers(0, count, count).astype(np.uint64)
    rows = np.array(sorted(data.draw(st.sets(st.integers(0, count - 1), min_size=1))))
    wanted = data.draw(st.integers(0, len(rows)))
    expected = rows[shuffle_by_hash(hashes[rows], seed)[:wanted]]
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(assignment_module, "MARGIN", data.draw(st.sampled_from([0, assignment_module.MARGIN])))
        assert draw_first(read(hashes, rows=rows), len(rows), wanted, seed).tolist() == sorted(expected.tolist())


def weigh(rows, hashes, sources, weights, seed=0):
    """`apply_weights` with the rows of a table in small record batches."""
    table = pa.table({ROW_HASH: hashes, SOURCE: pa.array(sources, pa.int32())})
    chunked = pa.Table.from_batches(table.to_batches(max_chunksize=7))
    return [found.tolist() for found in apply_weights(rows, Dataset(chunked), weights, seed)]


def test_weights_repeat_rows_and_choose_a_seeded_part():
    rows, hashes, sources = np.arange(10, 110), hashes_of(200), np.zeros(200)
    once = list(range(10, 110))
    assert weigh(rows, hashes, sources, [2.0]) == [once * 2, once]
    half, distinct = weigh(rows, hashes, sources, [0.5])
    assert half == distinct == sorted(rows[shuffle_by_hash(hashes[rows], 0)[:50]].tolist())
    assert half != weigh(rows, hashes, sources, [0.5], 1)[0]
    more, distinct = weigh(rows, hashes, sources, [1.3])
    assert distinct == more[:100] == once
    assert more[100:] == sorted(rows[shuffle_by_hash(hashes[rows], 0)[:30]].tolist())


def test_weights_of_several_sources_are_those_of_each_one_by_one():
    hashes, sources = hashes_of(120), np.repeat([0, 1, 2], 40)
    rows = np.arange(3, 120)
    found, distinct = weigh(rows, hashes, sources, [2.5, 0.25, 1.0])
    own = [rows[sources[rows] == number] for number in range(3)]
    drawn = [
        np.sort(part[shuffle_by_hash(hashes[part], 0)[:wanted]]) for part, wanted in zip(own, (18, 10), strict=False)
    ]
    assert found == np.concatenate([own[0], own[0], drawn[0], drawn[1], own[2]]).tolist()
    assert distinct == np.concatenate([own[0], drawn[1], own[2]]).tolist()
