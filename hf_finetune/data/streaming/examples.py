"""What makes the examples of a stream: documents and conversations have one each."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable
from typing import Any, Protocol

import pyarrow as pa
from datasets import Features

from hf_finetune.data.streaming.chunks import Chunk
from hf_finetune.data.streaming.position import Carried

Locate = Callable[[int], tuple[str, int]]
"""The shard, as the user wrote it, and the line of a row, by its id."""


class PartMaker(Protocol):
    """Makes the examples of one part, chunk by chunk."""

    def make(self, chunk: Chunk, carried: Carried) -> tuple[pa.RecordBatch, Carried, Counter[str]]:
        """The examples of a chunk, what is carried into the next one, and counts of the chunk.

        They follow from the chunk and from what is carried alone. Raises `DataError` for rows that it refuses.
        """
        ...

    def check(self, counts: Counter[str]) -> None:
        """Raise `DataError` where too few of the rows that were read so far, counted so, give an example."""


class ExampleMaker(Protocol):
    """How the rows of a run become its examples."""

    features: Features
    made_from: Any
    """What decides them beside the rows, JSON-ready."""
    bytes_per_example: int
    """About; 0 where it is that of a row."""

    def begin(self, locate: Locate) -> PartMaker: ...
