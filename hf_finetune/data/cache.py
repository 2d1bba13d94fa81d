"""Rows and tokens as entries of the cache: Arrow files, built by one process and mapped by all."""

from __future__ import annotations

import hashlib
import logging
from collections.abc import Callable, Generator
from contextlib import closing
from pathlib import Path
from typing import Any, BinaryIO

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from datasets import Dataset, Features
from datasets.arrow_reader import ArrowReader

from hf_finetune.cache.entries import explain_removed, explain_unwritten, mark_used, read_counts, write_sidecar
from hf_finetune.cache.holding import find_or_make
from hf_finetune.cache.keys import compute_cache_key, place_in_cache
from hf_finetune.files import open_atomically

logger = logging.getLogger(__name__)

Stats = dict[str, Any]
Batches = Generator[pa.RecordBatch, None, Stats]


def hash_dataset(rows: Dataset) -> str:
    """Hash what is in the columns of integers, or of lists of them, whichever file they came from: 64 digits."""
    digest = hashlib.sha256()
    for table in rows.with_format("arrow").iter(batch_size=1_000):
        for name in sorted(table.column_names):
            column = table.column(name).combine_chunks()
            digest.update(name.encode())
            if not pa.types.is_integer(column.type):  # [[1, 2], [3]] and [[1], [2, 3]] have the same items
                lengths = pc.list_value_length(column)
                digest.update(lengths.to_numpy(zero_copy_only=False).astype(np.int64).tobytes())
                column = pc.list_flatten(column)
            digest.update(column.to_numpy(zero_copy_only=False).astype(np.int64).tobytes())
    return digest.hexdigest()


def place_dataset(kind: str, made_from: Any) -> Path:
    """The file of the data set of these inputs, whether it is there or not. Raises OSError."""
    return place_in_cache(f"{kind}-{compute_cache_key(made_from)}.arrow")


def build_cached_dataset(
    kind: str, made_from: Any, features: Features, build: Callable[[], Batches], needs: tuple[str, ...] = ()
) -> tuple[Dataset, Stats]:
    """Load the memory-mapped data set of the inputs `made_from`, or build it; also returns the counts of `build`.

    `needs`: endings of files that `build` writes beside it, and without which it is built again, as it is where its
    file is not of the size that was written. Of several processes, of one run or of two, one builds and the others wait
    for its files. These are written aside and renamed, the counts first, so that a killed process leaves nothing that
    looks complete. Raises OSError where there can be no cache, CannotWriteError where it cannot be written,
    MachineError where its files vanish again, and whatever `build` raises.
    """
    arrow = place_dataset(kind, made_from)

    def make() -> tuple[Dataset, Stats]:
        if arrow.exists():
            logger.warning(
                "%s in the cache is not as it was written: it is made again", arrow.name, extra={"code": "HF091"}
            )
        _write_dataset(arrow, features, build())
        if (made := _load(arrow, needs)) is None:
            raise explain_removed(arrow)
        return made

    try:
        return find_or_make(arrow, lambda: _load(arrow, needs), make)
    except OSError as error:
        raise explain_unwritten("rows and tokens", error) from error


def _load(arrow: Path, needs: tuple[str, ...]) -> tuple[Dataset, Stats] | None:
    # Who removes entries takes the Arrow file first, who writes them puts it there last.
    counts = read_counts(arrow)
    if counts is None or not all(arrow.with_suffix(ending).exists() for ending in needs):
        return None
    try:
        table = ArrowReader.read_table(str(arrow))
    except (FileNotFoundError, pa.ArrowInvalid):
        return None
    mark_used(arrow)
    # By its name, and not by the time of its file, as datasets has it: what is made from it would not be found again.
    return Dataset(table, fingerprint=arrow.stem), counts


def _write_dataset(arrow: Path, features: Features, batches: Batches) -> None:
    # Closed where it is written no further: what it holds, as processes, would stay as long as the error is kept.
    with closing(batches), open_atomically(arrow, private=True) as file:
        sink = _HashingFile(file)
        with pa.ipc.new_stream(pa.PythonFile(sink, "w"), features.arrow_schema) as writer:
            while True:  # not `for`, which drops the value that a generator returns
                try:
                    writer.write_batch(next(batches))
                except StopIteration as end:
                    counts = end.value
                    break
        write_sidecar(arrow, counts, sink.size, sink.digest.hexdigest())


class _HashingFile:
    """A file that counts and hashes what is written into it."""

    closed = False

    def __init__(self, file: BinaryIO) -> None:
        self.file, self.digest, self.size = file, hashlib.sha256(), 0

    def write(self, data: bytes) -> int:
        self.digest.update(data)
        self.size += memoryview(data).nbytes
        return self.file.write(data)

    def flush(self) -> None:
        self.file.flush()

    def close(self) -> None:
        """Leave the file open: who has opened it puts it in its place."""
