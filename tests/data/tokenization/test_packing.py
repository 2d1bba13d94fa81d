from __future__ import annotations

import time
from fractions import Fraction

import numpy as np
import pyarrow as pa
import pytest
from datasets import Dataset
from hypothesis import given, settings
from hypothesis import strategies as st
from trl import pack_dataset

from hf_finetune.data.tokenization.packing import assign_bins, pack_bfd
from hf_finetune.data.tokenization.text import IGNORE_INDEX

BLOCK = 16


def rows_of(lengths: list[int]) -> Dataset:
    """Every token is another number; every other one is trained."""
    ends = np.cumsum(lengths)
    ids = [list(range(end - length, end)) for end, length in zip(ends.tolist(), lengths, strict=True)]
    labels = [[token if token % 2 else IGNORE_INDEX for token in row] for row in ids]
    return Dataset.from_dict({"input_ids": ids, "labels": labels, "length": lengths})


def unpacked(packed: Dataset, column: str) -> list[list[int]]:
    rows = []
    for bin_ in packed:
        ends = np.cumsum(bin_["seq_lengths"]).tolist()
        assert ends[-1] == len(bin_["input_ids"]) == len(bin_["labels"])
        rows += [bin_[column][start:end] for start, end in zip([0, *ends], ends, strict=False)]
    return rows


def longest_first_into_the_fullest(lengths: list[int], capacity: int) -> list[int]:
    """The oracle: the spaces left by best-fit decreasing, one row after the other."""
    spaces: list[int] = []
    for length in sorted(lengths, reverse=True):
        taking = [space for space in spaces if space >= length]
        if taking:
            spaces.remove(min(taking))
        spaces.append((min(taking) if taking else capacity) - length)
    return sorted(spaces)


lengths_of_rows = st.lists(st.integers(1, BLOCK), min_size=1, max_size=60)


@settings(max_examples=200)
@given(lengths=lengths_of_rows)
def test_bins_are_those_of_best_fit_decreasing(lengths):
    bins = assign_bins(np.array(lengths), BLOCK)
    loads = np.bincount(bins, lengths).astype(int)
    assert sorted((BLOCK - loads).tolist()) == longest_first_into_the_fullest(lengths, BLOCK)


@settings(max_examples=40)
@given(lengths=lengths_of_rows)
def test_every_row_is_in_one_bin_whole_and_its_first_token_is_not_trained(lengths):
    rows = rows_of(lengths)
    packed, share = pack_bfd(rows, BLOCK)
    assert packed.column_names == ["input_ids", "labels", "seq_lengths", "rows"]
    assert [length for bin_ in packed for length in bin_["seq_lengths"]] == [
        lengths[row] for bin_ in packed for row in bin_["rows"]
    ]
    assert sorted(row for bin_ in packed for row in bin_["rows"]) == list(range(len(lengths)))
    assert sorted(unpacked(packed, "input_ids")) == rows["input_ids"][:]
    expected = {
        ids[0]: [IGNORE_INDEX, *labels[1:]] for ids, labels in zip(rows["input_ids"], rows["labels"], strict=True)
    }
    for ids, labels in zip(unpacked(packed, "input_ids"), unpacked(packed, "labels"), strict=True):
        assert labels == expected[ids[0]]
    assert max(len(bin_["input_ids"]) for bin_ in packed) <= BLOCK
    assert share == pytest.approx(sum(lengths) / (len(packed) * BLOCK))
    # The order of the data as far as bins allow it.
    firsts = [bin_["input_ids"][0] for bin_ in packed]
    assert firsts == sorted(firsts)
    assert all(bin_["input_ids"] == sorted(bin_["input_ids"]) for bin_ in packed)


@pytest.mark.parametrize("seed", range(3))
def test_blocks_are_as_many_and_as_full_as_those_of_trl_when_it_takes_all_rows_at_once(seed):
    lengths = np.random.default_rng(seed).integers(1, BLOCK + 1, 1_500).tolist()
    rows = rows_of(lengths).select_columns(["input_ids", "labels"])
    packed, _ = pack_bfd(rows, BLOCK)
    peer = pack_dataset(rows, BLOCK, "bfd", {"batch_size": None})
    assert sorted(map(sum, packed["seq_lengths"])) == sorted(map(sum, peer["seq_lengths"]))
    assert len(packed) <= len(pack_dataset(rows, BLOCK, "bfd"))


def test_rows_that_were_chosen_or_reordered_are_packed_as_they_stand():
    rows = rows_of([3, 5, 2, 9]).select([3, 0])
    packed, _ = pack_bfd(rows, BLOCK)
    assert unpacked(packed, "input_ids") == rows["input_ids"][:]


def test_bins_of_many_batches_and_of_columns_in_chunks_are_the_same_rows():
    lengths = np.random.default_rng(0).integers(1, BLOCK + 1, 5_000).tolist()
    rows = rows_of(lengths)
    packed, share = pack_bfd(rows, BLOCK)
    assert len(packed) > 1_000
    assert sorted(unpacked(packed, "input_ids")) == rows["input_ids"][:]
    assert share > 0.99
    again, _ = pack_bfd(rows, BLOCK)
    assert again[:] == packed[:]


@pytest.mark.parametrize("chosen", [None, [3, 40, 0, 41, 7, 20], range(10, 30)])
def test_rows_of_a_file_in_many_pieces_are_packed_as_those_in_memory(tmp_path, chosen):
    lengths = np.random.default_rng(1).integers(1, BLOCK + 1, 60).tolist()
    rows = rows_of(lengths).add_column("row", list(range(100, 160)))
    with pa.ipc.new_stream(tmp_path / "rows.arrow", rows.data.schema) as writer:
        writer.write_table(rows.data.table, max_chunksize=7)
    kept = Dataset.from_file(str(tmp_path / "rows.arrow"))
    assert kept.data.column("labels").num_chunks == 9
    if chosen is not None:
        rows, kept = rows.select(chosen), kept.select(chosen)
    packed, _ = pack_bfd(kept, BLOCK)
    assert sorted(unpacked(packed, "input_ids")) == sorted(rows["input_ids"][:])
    numbered = dict(zip([ids[0] for ids in rows["input_ids"]], rows["row"], strict=True))
    firsts = [ids[0] for ids in unpacked(packed, "input_ids")]
    assert [row for bin_ in packed for row in bin_["rows"]] == [numbered[first] for first in firsts]
    again, _ = pack_bfd(Dataset.from_dict(rows[:]), BLOCK)
    assert again[:] == packed[:]


def test_a_row_longer_than_the_block_is_refused():
    with pytest.raises(ValueError, match="17 tokens does not fit into 16"):
        pack_bfd(rows_of([3, 17]), BLOCK)


def fewest_bins(lengths: np.ndarray, capacity: int) -> int:
    """A bound that no packing beats (Martello and Toth, 1990): rows longer than a half share no bin with each other."""
    bounds = []
    for small in range(capacity // 2 + 1):
        large = lengths[lengths > capacity - small]
        middle = lengths[(lengths <= capacity - small) & (2 * lengths > capacity)]
        little = lengths[(2 * lengths <= capacity) & (lengths >= max(small, 1))]
        left_in_middle = len(middle) * capacity - int(middle.sum())
        more = -(-(int(little.sum()) - left_in_middle) // capacity)
        bounds.append(len(large) + len(middle) + max(0, more))
    return max(bounds)


@settings(max_examples=200)
@given(lengths=lengths_of_rows)
def test_bins_are_at_most_eleven_ninths_of_the_fewest_possible_and_one(lengths):
    bins = assign_bins(np.array(lengths), BLOCK)
    assert bins.max() + 1 <= Fraction(11, 9) * fewest_bins(np.array(lengths), BLOCK) + 1
    assert (bins == assign_bins(np.array(lengths), BLOCK)).all()


@pytest.mark.parametrize("longest", [300, 8_192], ids=["short", "of any length"])
def test_a_million_rows_take_seconds_and_nearly_fill_their_bins(longest):
    lengths = np.random.default_rng(0).integers(1, longest, 1_000_000)
    start = time.process_time()
    bins = assign_bins(lengths, 8_192)
    assert time.process_time() - start < 10
    loads = np.bincount(bins, lengths)
    assert loads.max() <= 8_192
    assert loads.mean() > 0.99 * 8_192
