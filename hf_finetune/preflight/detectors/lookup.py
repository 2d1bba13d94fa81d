"""Hashes in which many others, nearly all of them absent, are looked up."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

from hf_finetune.data.splitting.assignment import Hashes, Rows

# Of hashes that are not there, fewer than one in eight then finds its flag set, and is searched for.
_FLAGS_A_HASH = 8


class Lookup:
    """Sorted hashes, (hashes,), and a table of flags by their high bits, which spares most binary searches."""

    def __init__(self, hashes: Hashes) -> None:
        self.hashes = hashes
        self._shift = np.uint64(64 - max(8, int(_FLAGS_A_HASH * len(hashes)).bit_length()))
        self._flags = np.zeros(2 ** (64 - int(self._shift)), np.bool_)
        self._flags[hashes >> self._shift] = True

    def find(self, others: Hashes) -> tuple[Rows, Rows, Rows]:
        """Find those of `others` (others,) that are there: their places, and where each begins and ends: (found,)."""
        maybe = np.flatnonzero(self._flags[others >> self._shift])
        left = np.searchsorted(self.hashes, others[maybe], "left")
        # A hash above all others has its place behind the last of them, where nothing can be read.
        there = left < len(self.hashes)
        there[there] = self.hashes[left[there]] == others[maybe][there]
        maybe, left = maybe[there], left[there]
        return maybe, left, np.searchsorted(self.hashes, others[maybe], "right")

    def has(self, others: Hashes) -> npt.NDArray[np.bool_]:
        """Whether each of `others` is there: (others,)."""
        found = np.zeros(len(others), np.bool_)
        found[self.find(others)[0]] = True
        return found
