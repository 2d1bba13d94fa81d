"""What is computed once, under a hash of its inputs: Arrow files, and the scores of a base, in the `datasets` cache."""

from __future__ import annotations

import hashlib
import json
import os
from collections.abc import Callable, Generator
from contextlib import suppress
from pathlib import Path
from typing import Any, BinaryIO

import datasets
import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from datasets import Dataset, Features
from datasets.arrow_reader import ArrowReader

from hf_finetune.data.cache_entries import find_cache, hold_entry, sweep_cache
from hf_finetune.files import make_private_folder, open_atomically, write_atomically

Stats = dict[str, Any]
Batches = Generator[pa.RecordBatch, None, Stats]

# Incremented when the layout of a cached file changes, rows are tokenized in another way, or rows that were taken are
# refused: older files are not found.
CACHE_VERSION = 10


def compute_cache_key(made_from: Any) -> str:
    """Hash JSON-ready values to 32 hexadecimal digits."""
    text = json.dumps([CACHE_VERSION, made_from], sort_keys=True, ensure_ascii=True)
    return hashlib.sha256(text.encode()).hexdigest()[:32]


def place_in_cache(name: str) -> Path:
    """Return the path of a file of the cache, whose folder is made for its owner alone. Raises OSError."""
    return make_private_folder(find_cache(Path(datasets.config.HF_DATASETS_CACHE))) / name


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
    kind: str, made_from: Any, features: Features, build: Callable[[], Batches]
) -> tuple[Dataset, Stats]:
    """Load the memory-mapped data set of the inputs `made_from`, or build it; also returns the counts of `build`.

    Of several processes, of one run or of two, one builds and the others wait for its files. These are written aside
    and renamed, the counts first, so that a killed process leaves nothing that looks complete. Raises OSError where the
    cache cannot be written, and whatever `build` raises.
    """
    arrow = place_dataset(kind, made_from)
    sidecar = arrow.with_suffix(".json")
    if not _is_whole(arrow):
        with hold_entry(arrow):
            if not _is_whole(arrow):  # another process may have built it meanwhile
                sweep_cache(arrow.parent)
                _write_dataset(arrow, sidecar, features, build())
    with suppress(OSError):  # a cache of others, which can be read only
        os.utime(arrow)  # entries that were used last are the last to be removed
    counts: Stats = json.loads(sidecar.read_text())["counts"]
    # By its name, and not by the time of its file, as datasets has it: what is made from it would not be found again.
    return Dataset(ArrowReader.read_table(str(arrow)), fingerprint=arrow.stem), counts


def _is_whole(arrow: Path) -> bool:
    # Who removes entries takes the Arrow file first, who writes them puts it there last.
    return arrow.exists() and arrow.with_suffix(".json").exists()


def _write_dataset(arrow: Path, sidecar: Path, features: Features, batches: Batches) -> None:
    with open_atomically(arrow, private=True) as file:
        sink = _HashingFile(file)
        with pa.ipc.new_stream(pa.PythonFile(sink, "w"), features.arrow_schema) as writer:
            while True:  # not `for`, which drops the value that a generator returns
                try:
                    writer.write_batch(next(batches))
                except StopIteration as end:
                    counts = end.value
                    break
        facts = {"counts": counts, "sha256": sink.digest.hexdigest()}
        # The counts first: a data set counts as complete once its Arrow file is there.
        write_atomically(sidecar, json.dumps(facts), private=True)


class _HashingFile:
    """A file that hashes what is written into it."""

    closed = False

    def __init__(self, file: BinaryIO) -> None:
        self.file, self.digest = file, hashlib.sha256()

    def write(self, data: bytes) -> int:
        self.digest.update(data)
        return self.file.write(data)

    def flush(self) -> None:
        self.file.flush()

    def close(self) -> None:
        """Leave the file open: who has opened it puts it in its place."""
