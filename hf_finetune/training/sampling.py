"""The order in which rows are trained."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
import numpy.typing as npt
from datasets import Dataset
from torch.utils.data import Sampler

BATCHES_PER_SHUFFLE = 50


class LengthGrouped(Sampler[int]):
    """Every row once an epoch, in batches of rows of like length that come in any order.

    Rows are shuffled, sorted by length within runs of 50 batches, and the batches shuffled; the longest comes first,
    so that what does not fit into memory fails at once. Seed and epoch alone decide the order: transformers' sampler
    takes it from the global random state, which differs in a resumed run, and between processes after an epoch in
    which their batches had different shapes.
    """

    def __init__(self, lengths: npt.NDArray[np.integer], batch_size: int, seed: int) -> None:
        self.lengths, self.batch_size, self.seed = lengths, batch_size, seed
        self.epoch = 0

    def set_epoch(self, epoch: int) -> None:
        self.epoch = epoch

    def __len__(self) -> int:
        return len(self.lengths)

    def __iter__(self) -> Iterator[int]:
        random = np.random.default_rng([self.seed, self.epoch])
        shuffled = random.permutation(len(self.lengths))
        runs = np.arange(len(shuffled)) // (self.batch_size * BATCHES_PER_SHUFFLE)
        rows = shuffled[np.lexsort([-self.lengths[shuffled], runs])]
        whole = len(rows) // self.batch_size
        batches = rows[: whole * self.batch_size].reshape(whole, self.batch_size)
        batches = random.permutation(batches)
        if whole:
            longest = int(self.lengths[batches].max(axis=1).argmax())
            batches[[0, longest]] = batches[[longest, 0]]
        yield from batches.ravel().tolist()
        yield from rows[whole * self.batch_size :].tolist()


class LongestFirst(Sampler[int]):
    """Every row once, the longest first: little padding, and what does not fit into memory fails at once."""

    def __init__(self, lengths: npt.NDArray[np.integer]) -> None:
        self.order = np.argsort(-lengths, kind="stable")

    def __len__(self) -> int:
        return len(self.order)

    def __iter__(self) -> Iterator[int]:
        yield from self.order.tolist()


def lengths_of(rows: Dataset) -> npt.NDArray[np.int64]:
    """The column `length` at once: read one by one, as transformers does, a million take a minute."""
    lengths: npt.NDArray[np.int64] = rows.with_format("numpy")[:]["length"]
    return lengths
