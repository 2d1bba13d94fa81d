"""Samplers: the order in which rows are trained and evaluated."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

import numpy as np
import numpy.typing as npt
from datasets import Dataset
from torch.utils.data import DataLoader, Sampler

BATCHES_PER_SHUFFLE = 50


class LengthGroupedSampler(Sampler[int]):
    """Yield every row once per epoch, in batches of similar length in random order.

    Rows are shuffled, sorted by length within runs of 50 batches, and the batches shuffled. The longest batch comes
    first, so that a run that does not fit into memory fails at once. The order depends on seed and epoch only.
    """

    # transformers 5.23's LengthGroupedSampler draws from the global random state, which differs after a resume, and
    # between processes whose batches had different shapes. Can go when it takes a seed and `set_epoch`.
    # Rows of lengths 3, 9, 4 and 8 in batches of 2: the batch 9, 8 comes first, then 4, 3.

    def __init__(
        self,
        lengths: npt.NDArray[np.integer],
        batch_size: int,
        seed: int,
        read_again: Callable[[], npt.NDArray[np.integer]] | None = None,
    ) -> None:
        """`lengths` is (rows,); `batch_size` counts the rows of an optimizer step over all processes.

        `read_again` gives the lengths of an epoch, where each has rows of its own, and as many.
        """
        self.lengths, self.batch_size, self.seed, self.read_again = lengths, batch_size, seed, read_again
        self.epoch = 0

    def set_epoch(self, epoch: int) -> None:
        """Select the order of an epoch; accelerate calls it before each."""
        self.epoch = epoch

    def __len__(self) -> int:
        return len(self.lengths)

    def __iter__(self) -> Iterator[int]:
        """Yield row indices; `lengths` is (rows,)."""
        if self.read_again is not None:
            self.lengths = self.read_again()
        random = np.random.default_rng([self.seed, self.epoch])
        shuffled = random.permutation(len(self.lengths))
        runs = np.arange(len(shuffled)) // (self.batch_size * BATCHES_PER_SHUFFLE)
        rows = shuffled[np.lexsort([-self.lengths[shuffled], runs])]  # by run, then longest first
        whole = len(rows) // self.batch_size
        batches = random.permutation(rows[: whole * self.batch_size].reshape(whole, self.batch_size))
        if whole:
            longest = int(self.lengths[batches].max(axis=1).argmax())
            batches[[0, longest]] = batches[[longest, 0]]
        yield from batches.ravel().tolist()
        yield from rows[whole * self.batch_size :].tolist()


class LongestFirstSampler(Sampler[int]):
    """Yield every row once, the longest first: little padding, and rows that do not fit into memory fail at once."""

    def __init__(self, lengths: npt.NDArray[np.integer]) -> None:
        """`lengths` is (rows,)."""
        self.order = np.argsort(-lengths, kind="stable")

    def __len__(self) -> int:
        return len(self.order)

    def __iter__(self) -> Iterator[int]:
        yield from self.order.tolist()


def set_epoch(loader: DataLoader[Any], epoch: int) -> None:
    """Select the order of an epoch, under whatever accelerate has wrapped around the sampler that draws it."""
    # accelerate 1.15 and transformers 5.23 look two wrappers deep. Where one of several processes resumes in the middle
    # of an epoch there are three, and the rows came in the order of the first epoch:
    # https://github.com/huggingface/accelerate/issues/4071
    wrapped: Any = loader.batch_sampler
    while wrapped is not None:
        sampler: Any = getattr(wrapped, "sampler", None)
        if hasattr(sampler, "set_epoch"):
            sampler.set_epoch(epoch)
        wrapped = getattr(wrapped, "batch_sampler", None)


def read_lengths(rows: Dataset) -> npt.NDArray[np.int64]:
    """Read the column `length`: (rows,), int64."""
    # In one piece: row by row, as transformers 5.23 does it, a million rows take a minute. The column before the rows:
    # `[:]["length"]` decodes every column, 9 KB for a row of 300 tokens.
    lengths: npt.NDArray[np.int64] = rows.with_format("numpy")["length"][:]
    return lengths
