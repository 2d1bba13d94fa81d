from __future__ import annotations

import numpy as np
import pytest
from accelerate import PartialState, skip_first_batches
from accelerate.data_loader import prepare_data_loader
from hypothesis import given
from hypothesis import strategies as st
from torch.utils.data import DataLoader

from hf_finetune.training.trainers.samplers import LengthGroupedSampler, set_epoch


def padded_tokens(lengths: np.ndarray, order: list[int], batch: int) -> int:
    batches = [lengths[order[start : start + batch]] for start in range(0, len(order), batch)]
    return sum(int(rows.max()) * len(rows) for rows in batches)


@given(lengths=st.lists(st.integers(1, 99), min_size=1, max_size=500), batch=st.integers(1, 9), epoch=st.integers(0, 3))
def test_every_row_comes_once_an_epoch_the_longest_first(lengths, batch, epoch):
    sampler = LengthGroupedSampler(np.array(lengths), batch, seed=1)
    sampler.set_epoch(epoch)
    order = list(sampler)
    assert sorted(order) == list(range(len(lengths)))
    assert len(sampler) == len(order)
    whole = order[: len(order) // batch * batch]
    if whole:
        assert max(lengths[row] for row in order[:batch]) == max(lengths[row] for row in whole)


def test_the_order_is_that_of_seed_and_epoch_however_often_it_was_asked_before():
    lengths = np.arange(1, 101)
    one, other = LengthGroupedSampler(lengths, 4, seed=1), LengthGroupedSampler(lengths, 4, seed=1)
    first = list(one)
    one.set_epoch(2)
    other.set_epoch(2)
    assert list(one) == list(other) != first
    assert list(LengthGroupedSampler(lengths, 4, seed=2)) != first


@pytest.mark.parametrize("count", [400, 10_000])
def test_there_is_hardly_any_padding_and_batches_come_in_no_order(count):
    random = np.random.default_rng(0)
    lengths = random.integers(10, 500, count)
    order = list(LengthGroupedSampler(lengths, 8, seed=0))
    assert padded_tokens(lengths, order, 8) < 1.05 * lengths.sum()
    assert padded_tokens(lengths, random.permutation(count).tolist(), 8) > 1.5 * lengths.sum()
    firsts = lengths[order[8::8]]
    assert abs(np.corrcoef(firsts[:-1], firsts[1:])[0, 1]) < 0.3


@pytest.mark.parametrize("processes", [1, 2])
def test_an_epoch_that_is_gone_on_with_in_its_middle_has_its_own_order(processes):
    PartialState(cpu=True)

    def read(epoch: int, skipped: int = 0) -> list[list[int]]:  # as transformers does
        loader = DataLoader(list(range(40)), batch_size=2, sampler=LengthGroupedSampler(np.ones(40, int), 4, seed=1))
        loader = prepare_data_loader(loader, num_processes=processes, process_index=0, put_on_device=False)
        set_epoch(loader, epoch)
        loader = skip_first_batches(loader, skipped) if skipped else loader
        loader.set_epoch(epoch)
        return [batch.tolist() for batch in loader]

    assert read(1, skipped=3) == read(1)[3:]
    assert read(1) != read(0)
